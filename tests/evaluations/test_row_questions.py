"""From rows to token ids: what is scored is the text's own tokens, and never none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from adapters_store.evaluation.errors import RowRefused
from adapters_store.evaluation.rows import EvalRow
from server.evaluation.asking import RowReader
from server.evaluation.plan import Plan
from server.model.text import TextCodec

MakePlan = Callable[..., Plan]
PAIR = 1000  # "xy" is one token
START, SAYS = 1, 2


class Letters:
    """One token for a letter, but one for "xy"; none for a dash."""

    def __init__(self, has_start: bool = True) -> None:
        self._has_start = has_start

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        letters = text.replace("-", "").replace("xy", chr(PAIR))
        start = [START] if self._has_start and add_special_tokens else []
        return [*start, *map(ord, letters)]

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
    ) -> list[int]:
        assert add_generation_prompt
        return [START, *self.encode(messages[0]["content"], add_special_tokens=False), SAYS]


def reader(plan: Plan, has_start: bool = True, max_model_len: int = 32) -> RowReader:
    return RowReader(plan, cast(TextCodec, Letters(has_start)), max_model_len)


def row(prompt: str, *choices: str) -> EvalRow:
    return EvalRow(prompt, choices[:1], choices)


def test_a_text_is_scored_after_its_prompt(make_plan: MakePlan) -> None:
    found = reader(make_plan(metrics=["accuracy"])).questions(row("ab", "c", "de"), 1)
    assert found.prompt is None
    assert found.target is None
    assert [scored.token_ids for scored in found.choices] == [
        (START, *map(ord, "abc")),
        (START, *map(ord, "abde")),
    ]
    assert [scored.start for scored in found.choices] == [3, 3]


def test_a_token_across_the_border_is_the_texts(make_plan: MakePlan) -> None:
    found = reader(make_plan(metrics=["loss"])).questions(row("ax", "yb", "c"), 1)
    assert found.target is not None
    assert found.target.token_ids == (START, ord("a"), PAIR, ord("b"))
    assert (found.target.start, found.target.num_tokens) == (2, 2)


def test_chat_scores_what_the_assistant_would_say(make_plan: MakePlan) -> None:
    plan = make_plan(metrics=["rouge_l", "loss"], prompt_mode="chat")
    found = reader(plan).questions(row("ax", "y", "z"), 1)
    asked = (START, ord("a"), ord("x"), SAYS)
    assert found.prompt == asked
    assert found.target is not None
    assert (found.target.token_ids, found.target.start) == ((*asked, ord("y")), 4)


@pytest.mark.parametrize("mode", ["raw", "chat"])
@pytest.mark.parametrize(
    ("metrics", "asked", "field"),
    [
        (["accuracy"], row("ab", "c", "-"), "choices[1]"),
        (["loss"], row("ab", "-", "c"), "target"),
        (["accuracy"], EvalRow("ab", ("c",)), "choices"),
        (["rouge_l"], row("a" * 40, "c", "d"), "prompt"),
        (["rouge_l"], row("a" * 25, "c", "d"), "prompt"),  # no room for 8 more
        (["loss"], row("ab", "c" * 40, "d"), "prompt"),
        (["accuracy"], row("ab", "c", "d" * 40), "prompt"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named_with_its_field(
    make_plan: MakePlan, mode: str, metrics: list[str], asked: EvalRow, field: str
) -> None:
    with pytest.raises(RowRefused) as caught:
        reader(make_plan(metrics=metrics, prompt_mode=mode)).questions(asked, 7)
    assert (caught.value.row, caught.value.field) == (7, field)


@pytest.mark.parametrize(("prompt", "metric"), [("-", "rouge_l"), ("-", "loss"), ("x", "loss")])
def test_a_prompt_without_tokens_is_refused(make_plan: MakePlan, prompt: str, metric: str) -> None:
    with pytest.raises(RowRefused, match="row 1, field prompt: has no token"):
        reader(make_plan(metrics=[metric]), has_start=False).questions(row(prompt, "y", "b"), 1)

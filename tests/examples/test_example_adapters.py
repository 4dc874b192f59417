"""The shipped adapters fit the demo base, gain what is said, and answer as shown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters_store.adapter import BaseIdentity
from adapters_store.files import read
from adapters_store.tasks.table import named
from adapters_store.training.data import Row
from adapters_store.validation import check
from examples.expert_table import EXPERTS
from examples.experts import choose_example, tables, with_tables
from examples.scoring import add_to, load, told
from examples.shipping import LIMITS, MAX_BYTES, identity, notes, shipped

FOLDER = Path(__file__).parents[2] / "examples"
ADAPTERS = FOLDER / "adapters"
EVERY_ADAPTER = pytest.mark.parametrize("name", EXPERTS)


def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "results.json").read_text())
    return found


def prompts() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((FOLDER / "prompts.json").read_text())
    return found


@pytest.fixture(scope="module")
def base_identity(demo_base: Path) -> BaseIdentity:
    return identity(demo_base)


def test_every_expert_has_one_shipped_adapter_and_no_other_is_shipped() -> None:
    assert {path.stem for path in ADAPTERS.iterdir()} == EXPERTS.keys()


def test_there_are_eight_and_some_of_blocks() -> None:
    blocks = [name for name in EXPERTS if read(shipped(ADAPTERS, name)).kinds == ("block",)]
    assert (len(EXPERTS) >= 8, len(blocks) >= 2) == (True, True)


def test_no_adapter_is_of_a_held_out_task_or_of_rows_not_to_be_passed_on() -> None:
    tasks = named([expert.task for expert in EXPERTS.values()])
    assert {(task.role, task.shareable) for task in tasks} == {("held-in", True)}


@EVERY_ADAPTER
def test_shipped_file_is_small(name: str) -> None:
    assert shipped(ADAPTERS, name).stat().st_size <= MAX_BYTES


@EVERY_ADAPTER
def test_shipped_file_says_how_the_script_makes_it(name: str) -> None:
    found = read(shipped(ADAPTERS, name)).notes
    config = json.loads(found["lineage"])["config"]
    assert found == {**found, **notes(name), "example": prompts()[name]["prompt"]}
    assert config == config | dict(EXPERTS[name].method) | {"max_steps": EXPERTS[name].steps}


@pytest.mark.demo
@EVERY_ADAPTER
def test_shipped_adapter_is_valid_for_the_demo_base(name: str, base_identity: BaseIdentity) -> None:
    check(read(shipped(ADAPTERS, name)), base_identity, LIMITS)


def test_readme_shows_the_measured_tables() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert with_tables(readme, results()) == readme


@EVERY_ADAPTER
def test_published_gain_is_of_the_shipped_file(name: str) -> None:
    result = results()[name]
    assert result["digest"] == read(shipped(ADAPTERS, name)).digest
    assert result["adapter"]["exact_match"] > result["base"]["exact_match"]


@pytest.mark.demo
def test_base_answers_no_example_prompt_as_its_adapter_does(demo_base: Path) -> None:
    rows = [Row(each["prompt"], each["answer"]) for each in prompts().values()]
    replies = told(*load(demo_base), rows, "base")
    assert [row for row, reply in zip(rows, replies, strict=True) if reply == row.target] == []


@pytest.mark.demo
@EVERY_ADAPTER
def test_adapter_answers_its_example_prompt_as_shown(name: str, demo_base: Path) -> None:
    model, tokenizer = load(demo_base)
    add_to(model, read(shipped(ADAPTERS, name)))
    row = Row(prompts()[name]["prompt"], prompts()[name]["answer"])
    assert [*told(model, tokenizer, [row], name)] == [row.target]


def said(*pairs: tuple[str, str]) -> list[Mapping[str, str]]:
    return [
        {"prompt": f"row {i}", "target": target, "answer": answer}
        for i, (target, answer) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("base", "adapter", "prompt"),
    [
        (said(("a", "x")), said(("a", "y")), "row 0"),  # nobody is right
        (said(("a", "a"), ("b", "x")), said(("a", "a"), ("b", "b")), "row 1"),
        (said(("a", "x"), ("b", "x")), said(("a", "a"), ("b", "b")), "row 0"),
    ],
)
def test_example_is_the_first_row_that_the_adapter_alone_answers(
    base: list[Mapping[str, str]], adapter: list[Mapping[str, str]], prompt: str
) -> None:
    assert choose_example(base, adapter)["prompt"] == prompt


def test_tables_stand_between_their_marks_and_nothing_else_changes() -> None:
    name = next(iter(EXPERTS))
    scores = {"rows": 5, "exact_match": 0.5, "contains_answer": 0.75}
    told_of = {"form": "f", "steps": 1, "rows_trained": 8, "bytes": 9}
    found = {name: {**told_of, "base": scores, "adapter": scores}}
    once = with_tables("# Title\n", found) + "after\n"
    assert tables(found) in once
    again = with_tables(once, {})
    assert (again.startswith("# Title\n"), again.endswith("after\n")) == (True, True)
    assert tables(found) not in again

"""Groups and prompts lie on one side of the split, and chance is the same everywhere."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_sources import questions_of

from adapters_store.tasks.questions import Question, same_text, shuffled
from adapters_store.tasks.rows import SPLITS
from adapters_store.tasks.splitting import (
    MAX_PROMPT_CHARS,
    MAX_TARGET_CHARS,
    equally_many,
    short,
    side,
    split_rows,
    unique,
)
from adapters_store.tasks.table import TASKS

QUESTIONS = st.lists(
    st.builds(
        Question,
        group=st.text("abc", min_size=1, max_size=2),
        prompt=st.text("pqr ", max_size=3),
        target=st.sampled_from(["yes", "no", "", "z" * (MAX_TARGET_CHARS + 1)]),
    ),
    max_size=60,
)


@given(QUESTIONS, st.booleans(), st.integers(1, 80))
def test_no_prompt_and_no_group_is_on_two_sides(
    questions: list[Question], balanced: bool, cap: int
) -> None:
    sides = split_rows("t", questions, balanced=balanced, cap=cap)
    prompts = Counter(row.prompt for split in SPLITS for row in sides[split])
    assert not prompts or prompts.most_common(1)[0][1] == 1
    assert prompts.total() <= cap
    first = {question.prompt: question for question in reversed(list(filter(short, questions)))}
    for split in SPLITS:
        assert all(side(first[row.prompt].group) == split for row in sides[split])


@given(QUESTIONS)
def test_balanced_answers_are_equally_many(questions: list[Question]) -> None:
    distinct = unique(questions)
    counts = Counter(question.target for question in equally_many(distinct))
    assert len(set(counts.values())) <= 1
    assert set(counts) == {question.target for question in distinct}


@given(QUESTIONS, st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_the_order_of_the_source(
    questions: list[Question], random: Random
) -> None:
    once = unique(questions)
    mixed = random.sample(once, len(once))
    sides = [split_rows("t", order, balanced=True, cap=9) for order in (once, mixed)]
    assert sides[0] == sides[1]


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_sides_of_every_task_share_no_group(name: str) -> None:
    questions = unique(filter(short, questions_of(name)))
    sides = split_rows(name, questions, balanced=False, cap=len(questions))
    group_of = {question.prompt: question.group for question in questions}
    groups = [{group_of[row.prompt] for row in sides[split]} for split in SPLITS]
    assert sum(map(len, groups)) == len(set().union(*groups)) > 1
    assert sum(map(len, sides.values())) == len(questions)


def test_a_tenth_of_the_groups_is_tested_and_a_tenth_validated() -> None:
    counts = Counter(side(f"group:{number}") for number in range(10_000))
    assert abs(counts["test"] - 1000) < 100
    assert abs(counts["validation"] - 1000) < 100


def test_sides_and_order_never_change() -> None:
    groups = ["word:pan", "word:can", "word:sky"]
    assert [side(group) for group in groups] == ["train", "validation", "test"]
    assert shuffled("abcdef", salt="order") == list("ecdbfa")


@pytest.mark.parametrize(
    ("prompt", "target", "kept"),
    [
        (0, 1, False),
        (1, 0, False),
        (1, 1, True),
        (MAX_PROMPT_CHARS, MAX_TARGET_CHARS, True),
        (MAX_PROMPT_CHARS + 1, 1, False),
        (1, MAX_TARGET_CHARS + 1, False),
    ],
)
def test_empty_and_long_questions_are_left_out(prompt: int, target: int, kept: bool) -> None:
    assert short(Question("g", "p" * prompt, "t" * target)) is kept


def test_the_first_answer_to_a_prompt_counts() -> None:
    first, second = Question("a", "p", "yes"), Question("b", "p", "no")
    assert unique([first, second]) == [first]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("", " ", False), ("!", "?", False), ("Good food.", "good  food", True), ("a", "b", False)],
)
def test_texts_that_differ_in_case_and_points_are_one_group(
    one: str, other: str, same: bool
) -> None:
    assert (same_text(one) == same_text(other)) is same

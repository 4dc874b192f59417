"""Which rows become examples, and how their answers are put together."""

from typing import Any

from evaluation_samples import rows_of, sample
from intarsia_client.report.examples import MAX_CHARS, Example, examples_of
from intarsia_client.report.results import Results


def chosen(rows: list[dict[str, Any]]) -> list[Example]:
    evaluation = sample(["base", "a", "b"], ["dates"], ["f1"])
    return examples_of(rows, Results.from_json(evaluation))["dates"]


def answers(*answered: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """Rows of dates, each with (output, f1) of base, a and b."""
    rows = rows_of(sample(["base", "a", "b"], ["dates"], ["f1"]), len(answered))
    told = [each for row in answered for each in row]
    return [
        row | {"output": output, "scores": {"f1": score}}
        for row, (output, score) in zip(rows, told, strict=True)
    ]


def test_rows_that_all_answered_alike_are_no_examples() -> None:
    assert chosen(answers([("x", 1.0)] * 3)) == []


def test_rows_of_the_farthest_scores_come_first_and_then_the_earliest() -> None:
    near = [("x", 1.0), ("x", 1.0), ("y", 2.0)]
    far = [("x", 0.0), ("y", 100.0), ("y", 100.0)]
    found = chosen(answers(near, far, near, near))
    assert [example.row for example in found] == [1, 0, 2]


def test_rows_that_a_subject_has_not_answered_are_no_examples() -> None:
    rows = answers([("x", 1.0), ("y", 2.0), ("z", 3.0)])
    assert chosen(rows[:2]) == []


def test_subjects_that_answered_alike_stand_together() -> None:
    (example,) = chosen(answers([("x", 1.0), ("y", 2.0), ("x", 1.0)]))
    assert [(a.subjects, a.scores) for a in example.answers] == [
        (("base", "b"), {"f1": 1.0}),
        (("a",), {"f1": 2.0}),
    ]


def test_long_texts_are_clipped_and_say_by_how_much() -> None:
    (example,) = chosen(answers([("x" * (MAX_CHARS + 7), 1.0), ("x" * MAX_CHARS, 1.0), ("", 1.0)]))
    texts = [answer.text for answer in example.answers]
    assert [text and (len(text.shown), text.num_left_out) for text in texts] == [
        (MAX_CHARS, 7),
        (MAX_CHARS, 0),
        (0, 0),
    ]


def test_a_row_without_answer_shows_the_likeliest_choice() -> None:
    rows = answers([("x", 1.0), ("x", 1.0), ("x", 1.0)])
    for row in rows:
        del row["output"]
    rows[1]["choices"] = [{"logprob": -1.0, "num_tokens": 1}] * 2
    (example,) = chosen(rows)
    assert [(a.subjects, a.text, a.choice) for a in example.answers] == [
        (("base", "b"), None, 1),
        (("a",), None, 0),
    ]


def test_a_data_set_that_is_gone_leaves_answers() -> None:
    rows = answers([("x", 1.0), ("y", 1.0), ("x", 1.0)])
    gone = [row | {"prompt": None, "targets": None} for row in rows]
    (example,) = chosen(gone)
    assert (example.prompt, example.targets) == (None, ())

"""A summary has every complete cell, means over tasks, and comparisons with one subject."""

from collections.abc import Mapping, Sequence
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.evaluation.errors import ScoresRefused
from adapters_store.evaluation.metrics import METRICS, metrics_of
from adapters_store.evaluation.resampling import Bootstrap
from adapters_store.evaluation.scores import Score, Scoreboard
from adapters_store.evaluation.summary import BASE, Summary, summarize

FEW = Bootstrap(resamples=100)
F1 = [METRICS["f1"]]
NUM_ROWS = {"long": 4, "short": 2}


def board(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Scoreboard:
    """Percentages of F1 by subject and task."""
    return Scoreboard(
        NUM_ROWS,
        {
            subject: {task: {"f1": [*map(Score, values)]} for task, values in tasks.items()}
            for subject, tasks in scores.items()
        },
    )


FULL: dict[str, dict[str, list[float]]] = {
    BASE: {"short": [0, 100], "long": [10, 20, 30, 40]},
    "sql@3": {"short": [50, 100], "long": [10, 30, 30, 70]},
}


def cells(summary: Summary) -> dict[tuple[str, str | None], tuple[float, int]]:
    every = (*summary.results, *summary.overall)
    return {(each.subject, each.task): (each.metrics["f1"].mean, each.n) for each in every}


def test_means_over_rows_then_over_tasks() -> None:
    assert cells(summarize(board(FULL), F1, bootstrap=FEW)) == {
        (BASE, "long"): (25, 4),
        (BASE, "short"): (50, 2),
        (BASE, None): (37.5, 6),  # 33.3 were it over rows
        ("sql@3", "long"): (35, 4),
        ("sql@3", "short"): (75, 2),
        ("sql@3", None): (55, 6),
    }


def test_json_is_as_the_api_shows_it() -> None:
    shown = summarize(board(FULL), F1, bootstrap=FEW).to_json()
    assert shown.keys() == {"results", "overall", "comparisons"}
    first, overall, compared = (shown[each][0] for each in shown)
    assert first["metrics"]["f1"].keys() == {"mean", "low", "high"}
    assert {key: first[key] for key in ("subject", "task", "n")} == {
        "subject": BASE,
        "task": "long",
        "n": 4,
    }
    assert overall["task"] is None
    assert compared.keys() == {"subject", "reference", "task", "metrics", "n"}
    expected = {"delta", "low", "high", "p_value", "wins", "losses", "ties"}
    assert compared["metrics"]["f1"].keys() == expected


def test_every_subject_is_compared_with_the_reference() -> None:
    scores = FULL | {"other": FULL["sql@3"]}
    found = summarize(board(scores), F1, reference="sql@3", bootstrap=FEW).comparisons
    deltas = {(each.subject, each.task): each.metrics["f1"].delta for each in found}
    assert deltas == {
        (BASE, None): -17.5,
        (BASE, "long"): -10,
        (BASE, "short"): -25,
        ("other", None): 0,
        ("other", "long"): 0,
        ("other", "short"): 0,
    }
    assert {each.reference for each in found} == {"sql@3"}
    base = found[0].metrics["f1"]
    assert (base.wins, base.losses, base.ties, base.n) == (0, 3, 3, 6)


def test_without_a_reference_nothing_is_compared() -> None:
    assert summarize(board(FULL), F1, reference=None, bootstrap=FEW).comparisons == ()
    with pytest.raises(ScoresRefused, match="no subject 'base'"):
        summarize(board({"sql@3": FULL["sql@3"]}), F1)


def test_what_is_not_complete_is_left_out() -> None:
    scores = FULL | {"sql@3": {"short": [50.0, 100.0], "long": [10.0, 30.0, 30.0]}, "new": {}}
    summary = summarize(board(scores), F1, bootstrap=FEW)
    assert set(cells(summary)) == {
        (BASE, "long"),
        (BASE, "short"),
        (BASE, None),
        ("sql@3", "short"),
    }
    assert [(each.subject, each.task) for each in summary.comparisons] == [("sql@3", "short")]
    assert summarize(Scoreboard({}, {}), F1, reference=None) == Summary((), (), ())


def test_metrics_of_other_kinds_stand_beside_each_other() -> None:
    scores = {BASE: {"a": {"f1": [Score(50)], "perplexity": [Score(0.5, 4)]}}}
    summary = summarize(Scoreboard({"a": 1}, scores), metrics_of(["f1", "perplexity", "loss"]))
    found = summary.results[0].metrics
    assert {name: each.mean for name, each in found.items()} == {"f1": 50, "perplexity": exp(0.5)}


@given(st.permutations(list(FULL)), st.permutations(list(NUM_ROWS)))
def test_order_of_subjects_and_tasks_changes_no_number(
    subjects: list[str], tasks: list[str]
) -> None:
    shuffled = {s: {t: {"f1": [*map(Score, FULL[s][t])]} for t in tasks} for s in subjects}
    rows = {task: NUM_ROWS[task] for task in tasks}
    plain, other = (
        summarize(each, F1, bootstrap=FEW) for each in (board(FULL), Scoreboard(rows, shuffled))
    )
    assert sorted(map(repr, plain.results)) == sorted(map(repr, other.results))
    assert sorted(map(repr, plain.overall)) == sorted(map(repr, other.overall))
    assert plain.comparisons == other.comparisons

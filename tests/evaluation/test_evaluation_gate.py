"""A gate opens for what is surely good enough, and for nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store.evaluation import gate as module
from adapters_store.evaluation.errors import InvalidSetting, ScoresRefused, UnknownMetric
from adapters_store.evaluation.gate import Decision, DeltaOver, Gate, decide
from adapters_store.evaluation.scores import Score, Scoreboard

OVER_BASE = DeltaOver("base")


def board(**subjects: list[float]) -> Scoreboard:
    """One task; the same numbers as F1, and as loss of rows of one token."""
    rows = max(map(len, subjects.values()))
    scores = {
        subject: {"t": {name: [*map(Score, values)] for name in ("f1", "loss")}}
        for subject, values in subjects.items()
    }
    return Scoreboard({"t": rows}, scores)


def opens(gate: Gate, **subjects: list[float]) -> bool:
    return decide(gate, "new", board(**subjects)).promoted


GOOD, FAIR, POOR = [80.0, 100.0] * 50, [40.0, 60.0] * 50, [0.0, 20.0] * 50


@pytest.mark.parametrize(
    ("gate", "promoted"),
    [
        (Gate("a", "f1", min=85), True),
        (Gate("a", "f1", min=89.9), False),  # the mean of 90 reaches it, its bound does not
        (Gate("a", "f1", min=95), False),
        (Gate("a", "f1", task="t", min=85), True),
        (Gate("a", "f1", min_delta_over=OVER_BASE), True),
        (Gate("a", "f1", min_delta_over=DeltaOver("base", 35)), True),
        (Gate("a", "f1", min_delta_over=DeltaOver("base", 39.9)), False),
        (Gate("a", "f1", min=85, min_delta_over=OVER_BASE), True),
        (Gate("a", "f1", min=95, min_delta_over=OVER_BASE), False),
        (Gate("a", "f1", min=85, min_delta_over=DeltaOver("base", 45)), False),
        (Gate("a", "f1", min=85, min_rows=101), False),
    ],
)
def test_every_condition_must_hold_with_confidence(gate: Gate, promoted: bool) -> None:
    assert opens(gate, new=GOOD, base=FAIR) is promoted


@pytest.mark.parametrize(
    ("gate", "promoted"),
    [
        (Gate("a", "loss", min=15), True),
        (Gate("a", "loss", min=10.1), False),
        (Gate("a", "loss", min=5), False),
        (Gate("a", "loss", min_delta_over=OVER_BASE), True),
        (Gate("a", "loss", min_delta_over=DeltaOver("base", 39)), True),
        (Gate("a", "loss", min_delta_over=DeltaOver("base", 41)), False),
    ],
)
def test_where_lower_is_better_the_bar_is_the_most(gate: Gate, promoted: bool) -> None:
    assert opens(gate, new=POOR, base=FAIR) is promoted
    assert not opens(gate, new=GOOD, base=FAIR)


def test_more_confidence_asks_for_more() -> None:
    bounds = [
        conditions(Gate("a", "f1", min=85, confidence=confidence), new=GOOD)[1]["bound"]
        for confidence in (0.6, 0.9, 0.95, 0.99)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 4


def conditions(gate: Gate, **subjects: list[float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = decide(gate, "new", board(**subjects)).evidence["conditions"]
    return found


def test_few_rows_promote_nothing_however_good() -> None:
    assert not opens(Gate("a", "f1", min=1), new=[100.0] * 19)
    assert opens(Gate("a", "f1", min=1), new=[100.0] * 20)
    # 20 right rows say, with this confidence, no more than 0.05 ** (1/20) = 86.1 %.
    assert opens(Gate("a", "f1", min=86), new=[100.0] * 20)
    assert not opens(Gate("a", "f1", min=86.2), new=[100.0] * 20)
    assert not opens(Gate("a", "f1", min=6, min_rows=1), new=[100.0])


def test_a_gate_of_one_task_does_not_mind_the_others() -> None:
    scores = {"new": {task: {"f1": [*map(Score, GOOD)]} for task in ("t", "small")}}
    both = Scoreboard({"t": 100, "small": 5}, scores)
    assert decide(Gate("a", "f1", task="t", min=85), "new", both).promoted
    assert not decide(Gate("a", "f1", task="small", min=0), "new", both).promoted
    assert not decide(Gate("a", "f1", min=0), "new", both).promoted


EITHER = Gate("a", "f1", min=1, min_delta_over=DeltaOver("base", -100))
MISSING = {
    "no scores at all": (EITHER, Scoreboard({}, {})),
    "the subject": (EITHER, board(base=GOOD)),
    "the reference": (EITHER, board(new=GOOD)),
    "a row": (EITHER, board(new=GOOD[1:], base=GOOD)),
    "a row of the reference": (EITHER, board(new=GOOD, base=GOOD[1:])),
    "rows of the task": (EITHER, Scoreboard({"t": 0}, {"new": {"t": {"f1": []}}})),
    "the metric": (Gate("a", "rouge_l", min=0), board(new=GOOD)),
    "the task": (Gate("a", "f1", task="u", min=0), board(new=GOOD)),
    "one of the tasks": (
        Gate("a", "f1", min=0),
        Scoreboard({"t": 100, "u": 100}, board(new=GOOD).scores),
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_promotes_nothing(name: str) -> None:
    gate, scores = MISSING[name]
    decision = decide(gate, "new", scores)
    assert not decision.promoted
    assert any("not every row of" in reason for reason in decision.reasons)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ScoresRefused):
        opens(Gate("a", "f1", min=0), new=[*GOOD, float("nan")])


@given(
    st.lists(st.floats(0, 100), min_size=20, max_size=30),
    st.data(),
    st.sampled_from(["f1", "loss"]),
    st.floats(-10, 90),
)
@settings(max_examples=40)
def test_a_better_score_never_closes_the_gate(
    values: list[float], data: st.DataObject, metric: str, bar: float
) -> None:
    gains = data.draw(st.lists(st.floats(0, 50), min_size=len(values), max_size=len(values)))
    if metric == "f1":
        better = [min(100.0, value + gain) for value, gain in zip(values, gains, strict=True)]
    else:
        better = [max(0.0, value - gain) for value, gain in zip(values, gains, strict=True)]
    base = data.draw(st.permutations(values))
    gates = [
        Gate("a", metric, min=bar),
        Gate("a", metric, min_delta_over=DeltaOver("base", bar / 10)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESAMPLES", 300)
        for gate in gates:
            before, after = (opens(gate, new=new, base=base) for new in (values, better))
            assert after or not before


def test_decision_says_why_and_shows_its_numbers() -> None:
    gate = Gate("prod", "f1", min=85, min_delta_over=DeltaOver("base", 45))
    decision = decide(gate, "new", board(new=GOOD, base=FAIR), seed=3)
    assert isinstance(decision, Decision)
    rows, absolute, relative = decision.reasons
    assert rows == "min_rows: 100 in the smallest task, 20 wanted"
    assert absolute.startswith("min: f1 is 90, at confidence 0.95 8")
    assert absolute.endswith("the bar of 85 is met")
    assert relative.startswith("min_delta_over: f1 is 40 better than base's, at confidence 0.95 3")
    assert relative.endswith("the bar of 45 is missed")
    evidence = json.loads(json.dumps(decision.evidence, allow_nan=False))
    assert evidence["gate"]["alias"] == "prod"
    assert evidence["gate"]["min_delta_over"] == {"subject": "base", "delta": 45}
    assert (evidence["subject"], evidence["seed"], evidence["resamples"]) == ("new", 3, 10_000)
    assert [each["met"] for each in evidence["conditions"]] == [True, True, False]
    assert evidence == decide(gate, "new", board(new=GOOD, base=FAIR), seed=3).evidence


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "min"),
        ({"min": float("nan")}, "min"),
        ({"min": float("inf")}, "min"),
        ({"min": 1, "confidence": 0.5}, "confidence"),
        ({"min": 1, "confidence": 1.0}, "confidence"),
        ({"min": 1, "confidence": float("nan")}, "confidence"),
        ({"min": 1, "min_rows": 0}, "min_rows"),
    ],
)
def test_gates_that_cannot_be_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Gate("a", "f1", **fields)
    assert caught.value.field == field


def test_gate_of_no_known_metric_or_delta_is_refused() -> None:
    with pytest.raises(UnknownMetric):
        Gate("a", "bleu", min=1)
    with pytest.raises(InvalidSetting, match=r"min_delta_over\.delta nan"):
        DeltaOver("base", float("nan"))

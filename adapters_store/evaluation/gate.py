"""Whether scores are good enough to move an alias, and why. Moves nothing itself.

A bar is met when the bound of the one-sided interval reaches it, not when the mean does. What is
not known is not good enough.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from adapters_store.evaluation.errors import InvalidSetting
from adapters_store.evaluation.metrics import Metric, metrics_of
from adapters_store.evaluation.scores import Scoreboard
from adapters_store.evaluation.statistics import Bootstrap, compare, interval

MAX_CONFIDENCE = 0.995
RESAMPLES = 10_000
MIN_ROWS = 20


@dataclass(frozen=True, slots=True)
class DeltaOver:
    """Better than `subject` by at least `delta`, in the metric's unit; below 0: hardly worse."""

    subject: str
    delta: float = 0.0


@dataclass(frozen=True, slots=True)
class Gate:
    """What must hold before `alias` moves. Raises InvalidSetting and UnknownMetric.

    Where lower is better, `min` is the most that is allowed, and a delta is a decrease.
    """

    alias: str
    metric: str
    task: str | None = None  # None: the unweighted mean over all tasks
    min: float | None = None
    min_delta_over: DeltaOver | None = None
    confidence: float = 0.95  # one-sided
    min_rows: int = MIN_ROWS  # of every task

    def __post_init__(self) -> None:
        metrics_of([self.metric])
        delta = self.min_delta_over and self.min_delta_over.delta
        if self.min is None and delta is None:
            raise InvalidSetting("min", None, "or min_delta_over must be given")
        for field, bar in (("min", self.min), ("min_delta_over.delta", delta)):
            if bar is not None and not isfinite(bar):
                raise InvalidSetting(field, bar, "must be finite")
        if not 0.5 < self.confidence <= MAX_CONFIDENCE:
            reason = f"must be above 0.5 and at most {MAX_CONFIDENCE}"
            raise InvalidSetting("confidence", self.confidence, reason)
        if self.min_rows < 1:
            raise InvalidSetting("min_rows", self.min_rows, "must be at least 1")


@dataclass(frozen=True, slots=True)
class Condition:
    """One bar with its evidence. Numbers are None where scores are missing."""

    condition: str  # min | min_delta_over | min_rows
    bar: float
    found: float | None  # the point estimate
    bound: float | None  # what is held against the bar
    met: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`promoted` if every condition is met; `evidence` is JSON of the gate and all numbers."""

    promoted: bool
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any]


def decide(gate: Gate, subject: str, board: Scoreboard, seed: int = 0) -> Decision:
    """Whether `subject` may have the gate's alias. Raises ScoresRefused for what is no score."""
    (metric,) = metrics_of([gate.metric])
    # A two-sided interval of twice the tail has the one-sided bound as its end.
    bootstrap = Bootstrap(2 * gate.confidence - 1, RESAMPLES, seed)
    conditions = [_enough_rows(gate, board)]
    if gate.min is not None:
        conditions.append(_reaches(gate, metric, subject, board, bootstrap))
    if gate.min_delta_over is not None:
        conditions.append(_improves(gate, metric, subject, board, bootstrap))
    return Decision(
        promoted=all(each.met for each in conditions),
        reasons=tuple(each.reason for each in conditions),
        evidence={
            "gate": asdict(gate),
            "subject": subject,
            "seed": seed,
            "resamples": RESAMPLES,
            "conditions": [asdict(each) for each in conditions],
        },
    )


def _enough_rows(gate: Gate, board: Scoreboard) -> Condition:
    fewest = min((board.num_rows.get(task, 0) for task in board.tasks(gate.task)), default=0)
    met = fewest >= gate.min_rows
    reason = f"{fewest} rows in the smallest task, {gate.min_rows} wanted"
    return Condition("min_rows", gate.min_rows, fewest, fewest, met, reason)


def _reaches(
    gate: Gate, metric: Metric, subject: str, board: Scoreboard, bootstrap: Bootstrap
) -> Condition:
    assert gate.min is not None
    samples = board.samples(subject, metric.name, board.tasks(gate.task))
    if samples is None:
        return _missing("min", gate.min, metric, subject)
    found = interval(samples, metric.scale, bootstrap)
    if metric.higher_is_better:
        return _held("min", gate, gate.min, found.mean, found.low, found.low >= gate.min)
    return _held("min", gate, gate.min, found.mean, found.high, found.high <= gate.min)


def _improves(
    gate: Gate, metric: Metric, subject: str, board: Scoreboard, bootstrap: Bootstrap
) -> Condition:
    over = gate.min_delta_over
    assert over is not None
    tasks = board.tasks(gate.task)
    mine, theirs = (board.samples(each, metric.name, tasks) for each in (subject, over.subject))
    if mine is None or theirs is None:
        lacking = subject if mine is None else over.subject
        return _missing("min_delta_over", over.delta, metric, lacking)
    better, worse = (mine, theirs) if metric.higher_is_better else (theirs, mine)
    gain = compare(better, worse, metric.scale, bootstrap)
    met = gain.low >= over.delta
    return _held("min_delta_over", gate, over.delta, gain.delta, gain.low, met)


def _missing(condition: str, bar: float, metric: Metric, subject: str) -> Condition:
    reason = f"{condition}: not every row of {subject} has a {metric.name}"
    return Condition(condition, bar, None, None, False, reason)


def _held(
    condition: str, gate: Gate, bar: float, found: float, bound: float, met: bool
) -> Condition:
    reason = (
        f"{condition}: {gate.metric} is {found:.4g}, at confidence {gate.confidence:g} "
        f"{bound:.4g}; the bar of {bar:g} is {'met' if met else 'missed'}"
    )
    return Condition(condition, bar, found, bound, met, reason)

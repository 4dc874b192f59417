"""Whether scores are good enough to move an alias, and why. Moves nothing itself.

A bar is met when the bound of the one-sided interval reaches it, not when the mean does. What is
not known is not good enough.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from adapters_store.evaluation.draws import Draws
from adapters_store.evaluation.errors import InvalidSetting
from adapters_store.evaluation.metrics import Metric, metrics_of
from adapters_store.evaluation.resampling import Bootstrap
from adapters_store.evaluation.scores import Scoreboard

MAX_CONFIDENCE = 0.995
RESAMPLES = 10_000
MIN_ROWS = 20


@dataclass(frozen=True, slots=True)
class DeltaOver:
    """Better than `subject` by at least `delta`, in the metric's unit; below 0: hardly worse.

    Raises InvalidSetting.
    """

    subject: str
    delta: float = 0.0

    def __post_init__(self) -> None:
        if not isfinite(self.delta):
            raise InvalidSetting("min_delta_over.delta", self.delta, "must be finite")


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
        if self.min is None and self.min_delta_over is None:
            raise InvalidSetting("min", None, "it or min_delta_over must be given")
        if self.min is not None and not isfinite(self.min):
            raise InvalidSetting("min", self.min, "must be finite")
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
    over = gate.min_delta_over
    subjects = {subject, over.subject} if over else {subject}
    trial = _Trial(gate, metric, subject, Draws.of(board, subjects, [metric], bootstrap))
    conditions = [_enough_rows(gate, board.num_rows)]
    if gate.min is not None:
        conditions.append(trial.reaches(gate.min))
    if over is not None:
        conditions.append(trial.improves(over))
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


def _enough_rows(gate: Gate, num_rows: Mapping[str, int]) -> Condition:
    tasks = list(num_rows) if gate.task is None else [gate.task]
    fewest = min((num_rows.get(task, 0) for task in tasks), default=0)
    reason = f"min_rows: {fewest} in the smallest task, {gate.min_rows} wanted"
    met = fewest >= gate.min_rows
    return Condition("min_rows", gate.min_rows, fewest, fewest, met, reason)


@dataclass(frozen=True, slots=True)
class _Trial:
    gate: Gate
    metric: Metric
    subject: str
    draws: Draws

    def reaches(self, bar: float) -> Condition:
        found = self.draws.interval(self.subject, self.metric.name, self.gate.task)
        if found is None:
            return self._missing("min", bar, self.subject)
        higher = self.metric.higher_is_better
        bound = found.low if higher else found.high
        met = bound >= bar if higher else bound <= bar
        return self._held("min", bar, found.mean, bound, met, f"is {found.mean:.4g}")

    def improves(self, over: DeltaOver) -> Condition:
        a, b = self.subject, over.subject
        if not self.metric.higher_is_better:
            a, b = b, a
        gain = self.draws.comparison(a, b, self.metric.name, self.gate.task)
        if gain is None:
            return self._missing("min_delta_over", over.delta, f"{self.subject} and {over.subject}")
        told, met = f"is {gain.delta:.4g} better than {over.subject}'s", gain.low >= over.delta
        return self._held("min_delta_over", over.delta, gain.delta, gain.low, met, told)

    def _missing(self, name: str, bar: float, subject: str) -> Condition:
        reason = f"{name}: not every row of {subject} has its {self.metric.name}"
        return Condition(name, bar, None, None, False, reason)

    def _held(
        self, name: str, bar: float, found: float, bound: float, met: bool, told: str
    ) -> Condition:
        reason = (
            f"{name}: {self.metric.name} {told}, at confidence {self.gate.confidence:g} "
            f"{bound:.4g}: the bar of {bar:g} is {'met' if met else 'missed'}"
        )
        return Condition(name, bar, found, bound, met, reason)

"""What `GET /v1/evaluations/{id}` answers, found by metric, subject and task.

Task None is the mean over all tasks. What the evaluation left out is None here, never a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from intarsia_client.types import Json

Place = tuple[str, str, str | None]  # metric, subject, task


class Score(NamedTuple):
    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of a subject to the reference; `n` rows, of which the subject is better in `wins`."""

    delta: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True, slots=True)
class Results:
    subjects: tuple[str, ...]
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    reference: str | None
    alpha: float  # a difference with a smaller p is marked
    scores: Mapping[Place, Score]
    differences: Mapping[Place, Difference]

    @classmethod
    def from_json(cls, evaluation: Json) -> "Results":
        """Of an evaluation whose results are there."""
        scored = (*evaluation["results"], *evaluation["overall"])
        return cls(
            subjects=tuple(each["name"] for each in evaluation["subjects"]),
            tasks=tuple(each["name"] for each in evaluation["datasets"]),
            metrics=tuple(evaluation["metrics"]),
            reference=evaluation["reference"],
            alpha=round(1 - evaluation["confidence"], 12),
            scores=_found(scored, Score),
            differences=_found(evaluation["comparisons"], Difference),
        )

    def score(self, metric: str, subject: str, task: str | None) -> Score | None:
        return self.scores.get((metric, subject, task))

    def difference(self, metric: str, subject: str, task: str | None) -> Difference | None:
        return self.differences.get((metric, subject, task))

    def is_marked(self, difference: Difference | None) -> bool:
        return difference is not None and difference.p_value < self.alpha


def _found(entries: Any, kind: Any) -> dict[Place, Any]:
    return {
        (metric, each["subject"], each["task"]): kind(*(told[name] for name in kind._fields))
        for each in entries
        for metric, told in each["metrics"].items()
    }

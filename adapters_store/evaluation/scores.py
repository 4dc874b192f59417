"""The score of a row, the scores of a task's rows, and of a whole evaluation.

Knows not how a score comes about (`metrics.py`) nor what it says (`statistics.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters_store.evaluation.errors import ScoresRefused

Floats = NDArray[np.float64]
Unit = Literal["percent", "nats per token", "perplexity"]


class Score(NamedTuple):
    """What one row adds to its task's score: the weighted mean of values, through the scale."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Scale:
    """What a metric's numbers mean, and how a task's score is made of its rows' values."""

    unit: Unit
    higher_is_better: bool
    bounds: tuple[float, float] | None  # of a row's value; None: there is no worst
    of_mean: Callable[[Floats], Floats]  # task's score of the weighted mean; never decreases

    def score(self, sample: "Sample") -> float:
        """The score of a task's rows."""
        mean = fsum(sample.values * sample.weights) / fsum(sample.weights)
        return float(self.of_mean(np.array(mean)))


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The scores of one task's rows, in the order of the data set."""

    values: Floats  # [n], finite
    weights: Floats  # [n], finite, above 0

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "Sample":
        """Raises ScoresRefused where there are none, or a number is none."""
        table = np.asarray(scores, dtype=np.float64).reshape(-1, 2)  # [n, 2]
        if not len(table):
            raise ScoresRefused("there are none")
        bad = ~np.isfinite(table).all(axis=1) | (table[:, 1] <= 0)
        if bad.any():
            row = int(bad.argmax())
            raise ScoresRefused(f"row {row + 1} has {tuple(scores[row])}")
        return cls(values=table[:, 0].copy(), weights=table[:, 1].copy())

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """Scores by subject, task and metric. All subjects are asked the same rows."""

    num_rows: Mapping[str, int]  # of every task of the evaluation
    scores: Mapping[str, Mapping[str, Mapping[str, Sequence[Score]]]]

    def sample(self, subject: str, task: str, metric: str) -> Sample | None:
        """None unless every row of the task has its score."""
        found = self.scores.get(subject, {}).get(task, {}).get(metric, ())
        complete = 0 < len(found) == self.num_rows.get(task, 0)
        return Sample.of(found) if complete else None

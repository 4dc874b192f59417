"""What scores say of rows that were not asked: intervals and paired comparison.

Of one task or of several, whose scores count alike. Knows no metric by name and no subject.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from adapters_store.evaluation.resampling import Drawn, Pair
from adapters_store.evaluation.scores import Floats

Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Interval:
    """The score of `n` rows and where that of all such rows is; `low` <= `mean` <= `high`."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """`delta` is a less b, in the metric's unit; a wins the rows where its score is the better.

    `p_value`: how often a delta as large comes of swapping a and b at random, row by row.
    """

    delta: float
    low: float
    high: float
    p_value: float
    n: int
    wins: int
    losses: int
    ties: int


def interval(tasks: Sequence[Drawn], tail: float) -> Interval:
    """Of the unweighted mean over tasks; `tail` is the probability left out on each side.

    The percentile interval, and never narrower than so few rows allow (`unseen_share`).
    """
    mean = _mean(task.score for task in tasks)
    sizes = [len(task.sample) for task in tasks]
    drawn = _means([task.replicates for task in tasks])
    low, high = _ends(mean, drawn, tail, sizes, tasks[0].scale.bounds)
    return Interval(mean, low, high, sum(sizes))


def compare(tasks: Sequence[Pair], tail: float) -> Comparison:
    """Of the unweighted mean over tasks, like `interval`."""
    delta = _mean(task.delta for task in tasks)
    sizes = [task.n for task in tasks]
    bounds = tasks[0].scale.bounds
    if bounds is not None:
        bounds = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    low, high = _ends(delta, _means([task.replicates for task in tasks]), tail, sizes, bounds)
    p_value = _p_value(delta, _means([task.swapped for task in tasks]))
    n, wins, losses = sum(sizes), sum(t.wins for t in tasks), sum(t.losses for t in tasks)
    return Comparison(delta, low, high, p_value, n, wins, losses, n - wins - losses)


def unseen_share(sizes: Sequence[int], tail: float) -> float:
    """The share of all rows that may be of a kind that none of these is: as likely as `tail`.

    It is 1 - tail ** (1/n): where all rows are right, the exact binomial bound, of which
    resampling knows nothing. Tasks of n rows each count as one of so many more, unequal ones
    as if all were as small as the smallest.
    """
    return float(1 - tail ** (1 / (len(sizes) * min(sizes))))


def _ends(
    seen: float, drawn: Floats, tail: float, sizes: Sequence[int], bounds: Bounds | None
) -> Bounds:
    low = min(seen, float(np.quantile(drawn, tail, method="lower")))
    high = max(seen, float(np.quantile(drawn, 1 - tail, method="higher")))
    if bounds is None:
        return low, high
    share = unseen_share(sizes, tail)
    return min(low, seen - share * (seen - bounds[0])), max(high, seen + share * (bounds[1] - seen))


def _p_value(delta: float, swapped: Floats) -> float:
    rounding = 1e-12 * max(1.0, abs(delta))
    as_large = int((np.abs(swapped) >= abs(delta) - rounding).sum())
    return (1 + as_large) / (1 + len(swapped))


def _mean(scores: Iterable[float]) -> float:
    found = list(scores)
    return fsum(found) / len(found)


def _means(replicates: Sequence[Floats]) -> Floats:
    means: Floats = np.mean(replicates, axis=0)
    return means

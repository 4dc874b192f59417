"""What scores say of the rows that were not asked: bootstrap intervals and paired comparison.

A score is the unweighted mean over tasks of each task's score; rows are drawn again within their
task. Draws depend on the seed and the numbers of rows alone, so two subjects are drawn alike.
Knows no metric by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from adapters_store.evaluation.errors import InvalidSetting, ScoresRefused
from adapters_store.evaluation.scores import Floats, Sample, Scale

MAX_DRAWS_AT_ONCE = 1 << 20
MAX_RESAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How rows are drawn again. Raises InvalidSetting."""

    confidence: float = 0.95  # two-sided, above 0 and below 1
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InvalidSetting("confidence", self.confidence, "must be above 0 and below 1")
        if not 1 <= self.resamples <= MAX_RESAMPLES:
            raise InvalidSetting("resamples", self.resamples, f"must be 1 to {MAX_RESAMPLES:,}")
        if self.seed < 0:
            raise InvalidSetting("seed", self.seed, "must be at least 0")

    @property
    def tail(self) -> float:
        """The probability that is left out on each side."""
        return (1 - self.confidence) / 2


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


def aggregate(tasks: Sequence[Sample], scale: Scale) -> float:
    """The unweighted mean over tasks."""
    return fsum(_score(task, scale) for task in tasks) / len(tasks)


def interval(tasks: Sequence[Sample], scale: Scale, bootstrap: Bootstrap) -> Interval:
    """The percentile interval, never narrower than so few rows allow (`_unseen`)."""
    mean = aggregate(tasks, scale)
    low, high = _percentiles(_replicates(tasks, scale, bootstrap), mean, bootstrap.tail)
    if scale.bounds is not None:
        share = _unseen(tasks, bootstrap.tail)
        low = min(low, mean - share * (mean - scale.bounds[0]))
        high = max(high, mean + share * (scale.bounds[1] - mean))
    return Interval(mean, low, high, _num_rows(tasks))


def compare(
    a: Sequence[Sample], b: Sequence[Sample], scale: Scale, bootstrap: Bootstrap
) -> Comparison:
    """a against b, row by row. Raises ScoresRefused unless both are of the same rows."""
    _check_pairs(a, b)
    delta = aggregate(a, scale) - aggregate(b, scale)
    drawn = _replicates(a, scale, bootstrap) - _replicates(b, scale, bootstrap)
    low, high = _percentiles(drawn, delta, bootstrap.tail)
    if scale.bounds is not None:
        share, width = _unseen(a, bootstrap.tail), scale.bounds[1] - scale.bounds[0]
        low = min(low, delta - share * (delta + width))
        high = max(high, delta + share * (width - delta))
    better, worse = _outcomes(a, b, scale)
    n = _num_rows(a)
    p_value = _p_value(a, b, scale, bootstrap, delta)
    return Comparison(delta, low, high, p_value, n, better, worse, n - better - worse)


def _num_rows(tasks: Sequence[Sample]) -> int:
    return sum(len(task) for task in tasks)


def _score(task: Sample, scale: Scale) -> float:
    mean = fsum(task.values * task.weights) / fsum(task.weights)
    return float(scale.of_mean(np.array(mean)))


def _unseen(tasks: Sequence[Sample], tail: float) -> float:
    """The share of all rows that may be of a kind that none of these is: as likely as `tail`.

    On that share a score may be the worst. It is 1 - tail ** (1/n): where all rows are right,
    the exact binomial bound, of which resampling knows nothing. Several tasks of n rows count
    as one of so many more, unequal ones as if all were as small as the smallest.
    """
    n = len(tasks) * min(len(task) for task in tasks)
    return float(1 - tail ** (1 / n))


def _percentiles(drawn: Floats, seen: float, tail: float) -> tuple[float, float]:
    low = float(np.quantile(drawn, tail, method="lower"))
    high = float(np.quantile(drawn, 1 - tail, method="higher"))
    return min(low, seen), max(high, seen)


def _replicates(tasks: Sequence[Sample], scale: Scale, bootstrap: Bootstrap) -> Floats:
    """The score of each resample `[resamples]`."""
    seeds = np.random.SeedSequence([bootstrap.seed, 0]).spawn(len(tasks))
    means = [
        _resampled(task, np.random.default_rng(seed), bootstrap.resamples)
        for task, seed in zip(tasks, seeds, strict=True)
    ]
    scores: Floats = np.mean([scale.of_mean(mean) for mean in means], axis=0)
    return scores


def _resampled(task: Sample, rng: np.random.Generator, resamples: int) -> Floats:
    """The weighted mean of each resample of one task's rows."""
    products = task.values * task.weights
    parts = []
    for rows in _parts(resamples, len(task)):
        drawn = rng.integers(0, len(task), (rows, len(task)))  # [rows, n]
        parts.append(products[drawn].sum(axis=1) / task.weights[drawn].sum(axis=1))
    return np.concatenate(parts)


def _p_value(
    a: Sequence[Sample], b: Sequence[Sample], scale: Scale, bootstrap: Bootstrap, delta: float
) -> float:
    seeds = np.random.SeedSequence([bootstrap.seed, 1]).spawn(len(a))
    swapped = np.mean(
        [
            _swapped(one, other, scale, np.random.default_rng(seed), bootstrap.resamples)
            for one, other, seed in zip(a, b, seeds, strict=True)
        ],
        axis=0,
    )
    rounding = 1e-12 * max(1.0, abs(delta))
    as_large = int((np.abs(swapped) >= abs(delta) - rounding).sum())
    return (1 + as_large) / (1 + bootstrap.resamples)


def _swapped(
    a: Sample, b: Sample, scale: Scale, rng: np.random.Generator, resamples: int
) -> Floats:
    """The delta of one task where a random half of the rows is swapped, again and again."""
    total = a.weights.sum()
    changes = a.weights * (b.values - a.values) / total  # [n]
    of_a, of_b = (a.values @ a.weights) / total, (b.values @ b.weights) / total
    moved = np.concatenate(
        [
            rng.integers(0, 2, (rows, len(a)), dtype=np.int8) @ changes
            for rows in _parts(resamples, len(a))
        ]
    )
    delta: Floats = scale.of_mean(of_a + moved) - scale.of_mean(of_b - moved)
    return delta


def _parts(resamples: int, n: int) -> Iterator[int]:
    """`resamples` in parts whose draws fit into the memory that is meant for them."""
    size = max(1, MAX_DRAWS_AT_ONCE // n)
    yield from (min(size, resamples - first) for first in range(0, resamples, size))


def _outcomes(a: Sequence[Sample], b: Sequence[Sample], scale: Scale) -> tuple[int, int]:
    """In how many rows a is the better, and in how many the worse."""
    gains = np.concatenate([one.values - other.values for one, other in zip(a, b, strict=True)])
    up, down = int((gains > 0).sum()), int((gains < 0).sum())
    return (up, down) if scale.higher_is_better else (down, up)


def _check_pairs(a: Sequence[Sample], b: Sequence[Sample]) -> None:
    if [len(task) for task in a] != [len(task) for task in b]:
        raise ScoresRefused("the two are not of the same rows")
    if any((x.weights != y.weights).any() for x, y in zip(a, b, strict=True)):
        raise ScoresRefused("the two weigh their rows differently")

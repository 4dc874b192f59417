"""One task's rows drawn again: scores of each resample, and of two subjects swapped row by row.

Draws depend on the seed, the task's place and its number of rows alone: whatever is scored on the
same rows is drawn alike, in one product of counts and scores. Knows no metric by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    def parts(self, n: int) -> Iterator[int]:
        """The resamples in parts, whose draws of `n` rows fit into the memory meant for them."""
        size = max(1, MAX_DRAWS_AT_ONCE // n)
        for first in range(0, self.resamples, size):
            yield min(size, self.resamples - first)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A task's score, and that of each resample of its rows."""

    sample: Sample
    scale: Scale
    score: float
    replicates: Floats  # [resamples]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What a's score of a task is above b's, of the same rows."""

    scale: Scale
    n: int
    delta: float
    replicates: Floats  # [resamples] the delta of each resample
    swapped: Floats  # [resamples] the delta where a random half of the rows is swapped
    wins: int  # rows where a is the better
    losses: int


def draw(
    cells: Sequence[tuple[Sample, Scale]], bootstrap: Bootstrap, stratum: int = 0
) -> list[Drawn]:
    """All that is scored on the same rows. `stratum` is the task's place: tasks draw apart."""
    if len({len(sample) for sample, _ in cells}) > 1:
        raise ScoresRefused("they are not of the same rows")
    if not cells:
        return []
    weights = np.stack([sample.weights for sample, _ in cells], axis=1)  # [n, cells]
    products = weights * np.stack([sample.values for sample, _ in cells], axis=1)
    rng = np.random.default_rng([bootstrap.seed, 0, stratum])
    means = np.concatenate(
        [
            (counts @ products) / (counts @ weights)
            for counts in _counts(len(weights), bootstrap, rng)
        ]
    )  # [resamples, cells]
    return [
        Drawn(sample, scale, scale.score(sample), scale.of_mean(column))
        for (sample, scale), column in zip(cells, means.T, strict=True)
    ]


def pair(a: Drawn, b: Drawn, bootstrap: Bootstrap, stratum: int = 0) -> Pair:
    """a against b. Raises ScoresRefused unless both are drawn from the same rows."""
    if len(a.sample) != len(b.sample) or (a.sample.weights != b.sample.weights).any():
        raise ScoresRefused("the two are not of the same rows")
    gains = a.sample.values - b.sample.values
    up, down = int((gains > 0).sum()), int((gains < 0).sum())
    wins, losses = (up, down) if a.scale.higher_is_better else (down, up)
    return Pair(
        scale=a.scale,
        n=len(a.sample),
        delta=a.score - b.score,
        replicates=a.replicates - b.replicates,
        swapped=_swapped(a, b, bootstrap, np.random.default_rng([bootstrap.seed, 1, stratum])),
        wins=wins,
        losses=losses,
    )


def _counts(n: int, bootstrap: Bootstrap, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each resample has each row `[part, n]`."""
    for part in bootstrap.parts(n):
        drawn = rng.integers(0, n, (part, n)) + n * np.arange(part)[:, None]
        yield np.bincount(drawn.ravel(), minlength=part * n).reshape(part, n).astype(np.float64)


def _swapped(a: Drawn, b: Drawn, bootstrap: Bootstrap, rng: np.random.Generator) -> Floats:
    shares = a.sample.weights / a.sample.weights.sum()
    changes = shares * (b.sample.values - a.sample.values)  # [n]
    of_a, of_b = shares @ a.sample.values, shares @ b.sample.values
    moved = np.concatenate(
        [
            rng.integers(0, 2, (part, len(shares)), dtype=np.int8) @ changes
            for part in bootstrap.parts(len(shares))
        ]
    )
    delta: Floats = a.scale.of_mean(of_a + moved) - a.scale.of_mean(of_b - moved)
    return delta

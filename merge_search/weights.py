"""The weights that are searched: each for itself, or such that they add up. Pure arithmetic."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from merge_search import simplex
from merge_search.dimensions import Axis, Range, rounded
from merge_search.errors import SearchRefused

MAX_WEIGHT = 1e6  # what requests may hold


@dataclass(frozen=True, slots=True)
class Weights:
    """Each from `low` to `high`; with `total` each at least `low`, and `total` together."""

    low: float = 0.0
    high: float = 1.5
    total: float | None = None

    def check(self, count: int) -> None:
        """Raise SearchRefused if `count` weights cannot be so."""
        numbers = [self.low, self.high, *([] if self.total is None else [self.total])]
        if not all(math.isfinite(each) and abs(each) <= MAX_WEIGHT for each in numbers):
            raise SearchRefused("weights", f"must be numbers of at most {MAX_WEIGHT:g}")
        if self.total is None and self.low > self.high:
            raise SearchRefused("weights", f"low {self.low:g} is above high {self.high:g}")
        if self.total is not None and self.total < count * self.low:
            told = f"{count} weights of at least {self.low:g} never add up to {self.total:g}"
            raise SearchRefused("weights.sum", told)

    @property
    def is_fixed(self) -> bool:
        """All are the same, whatever is searched."""
        return self.total is None and self.low == self.high

    def axes(self, names: Sequence[str]) -> list[Axis]:
        """One for each weight, one less where they add up; none where nothing is left to choose."""
        if self.is_fixed:
            return []
        free = names if self.total is None else names[:-1]
        return [Axis(f"weight {name}") for name in free]

    def at(self, places: Sequence[float], count: int) -> list[float]:
        """The weights at these places of the axes, in few digits."""
        if self.is_fixed:
            return [self.low] * count
        if self.total is None:
            return [Range(self.low, self.high).at(place) for place in places]
        room = self.total - count * self.low
        return [rounded(self.low + room * share) for share in simplex.shares_at(places)]

    def uniform_coordinates(self, count: int) -> list[float]:
        """Where all weights are 1, or as near as may be; equal ones where they add up."""
        if self.is_fixed:
            return []
        if self.total is None:
            return [Range(self.low, self.high).share_of(1.0)] * count
        return simplex.coordinates_of([1 / count] * count)

    def grid(self, count: int, steps: int) -> Iterator[tuple[float, ...]]:
        """Places of `steps` even weights each; where they add up, all multiples that do."""
        if self.total is not None:
            for shares in simplex.lattice(count, steps):
                yield tuple(simplex.coordinates_of(shares))
            return
        even = [index / (steps - 1) for index in range(steps)]
        yield from product(even, repeat=0 if self.is_fixed else count)

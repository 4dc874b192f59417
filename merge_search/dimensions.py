"""What one number or word of a merge may be: a range, or a few values. Pure; knows no merge.

A sampler sees only axes: a place on one is a share of the way through a range (0 to 1), or the
index of a value.
"""

import math
from dataclasses import dataclass

Value = float | str | tuple[float, ...]
DIGITS = 4  # significant ones: recipes stay readable, and scores do not tell finer steps apart


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from `low` to `high`, `low` below `high`; `log`: even steps are factors."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        assert self.low < self.high
        assert not self.log or self.low > 0

    def at(self, share: float) -> float:
        """The number at `share` of the way, 0 to 1, of few digits."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        found = low + share * (high - low)
        return self.clamped(rounded(math.exp(found) if self.log else found))

    def share_of(self, number: float) -> float:
        """Where `number` lies, 0 to 1; what is outside lies at the end."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(self.clamped(number)) - low) / (high - low)

    def clamped(self, number: float) -> float:
        return min(max(number, self.low), self.high)

    def _scaled(self, number: float) -> float:
        return math.log(number) if self.log else number


@dataclass(frozen=True, slots=True)
class Values:
    """One of these; a single one is fixed."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        assert self.values

    def index_of(self, value: Value | None) -> int:
        """Where `value` stands; the first place if it is none of these."""
        return self.values.index(value) if value in self.values else 0


Dimension = Range | Values


@dataclass(frozen=True, slots=True)
class Axis:
    """`choices` indices from 0, or if None the shares from 0 to 1."""

    name: str
    choices: int | None = None


def rounded(number: float) -> float:
    """`number` with DIGITS significant digits."""
    return float(f"{number:.{DIGITS}g}")

"""What a merge method may be told: named values with ranges, defaults and meanings.

Owns checking one value; knows no method. A refusal is `InvalidMerge` with the field's name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adapters_store.errors import InvalidMerge

Value = float | str | tuple[float, ...]
INFINITY = math.inf


@dataclass(frozen=True, slots=True)
class Number:
    """A finite real number from `low` to `high`; `above_low` leaves `low` itself out."""

    name: str
    default: float
    meaning: str
    low: float = -INFINITY
    high: float = INFINITY
    above_low: bool = False

    kind: ClassVar[str] = "number"

    def parse(self, given: object) -> float:
        """`given` as a float. Raises InvalidMerge."""
        number = _finite(self.name, given)
        if not self.low <= number <= self.high or (self.above_low and number == self.low):
            raise InvalidMerge(self.name, given, f"must be {self.range}")
        return number

    @property
    def range(self) -> str:
        """The numbers that do, in words."""
        low = f"{'above' if self.above_low else 'at least'} {self.low:g}"
        bounds = [low] if self.low > -INFINITY else []
        bounds += [f"at most {self.high:g}"] if self.high < INFINITY else []
        return " and ".join(bounds) or "finite"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    name: str
    default: str
    meaning: str
    choices: tuple[str, ...]

    kind: ClassVar[str] = "choice"

    def parse(self, given: object) -> str:
        """`given`, if it is one of the words. Raises InvalidMerge."""
        if not isinstance(given, str) or given not in self.choices:
            raise InvalidMerge(self.name, given, f"must be {self.range}")
        return given

    @property
    def range(self) -> str:
        return " or ".join(self.choices)


@dataclass(frozen=True, slots=True)
class MemberNumbers:
    """A positive finite number for every member, in the members' order; it must be given."""

    name: str
    meaning: str

    kind: ClassVar[str] = "numbers"
    default: ClassVar[None] = None
    range: ClassVar[str] = "a list of one number above 0 for every member"

    def parse(self, given: object) -> tuple[float, ...]:
        """`given` as floats. Raises InvalidMerge."""
        if not isinstance(given, Sequence) or isinstance(given, str | bytes):
            raise InvalidMerge(self.name, given, f"must be {self.range}")
        numbers = tuple(_finite(self.name, value) for value in given)
        if not numbers or min(numbers) <= 0:
            raise InvalidMerge(self.name, given, f"must be {self.range}")
        return numbers


Parameter = Number | Choice | MemberNumbers


def described(parameter: Parameter) -> dict[str, Any]:
    """A parameter as JSON, for listings."""
    return {
        "name": parameter.name,
        "kind": parameter.kind,
        "default": parameter.default,
        "range": parameter.range,
        "meaning": parameter.meaning,
    }


def _finite(name: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidMerge(name, given, "must be a number")
    # An integer beyond the floats' range must not escape as an OverflowError.
    if not abs(given) <= 1e300:
        raise InvalidMerge(name, given, "must be a finite number")
    return float(given)

"""How a function is applied to all of something: one after another, or by whoever has many threads.

Knows neither what is made nor by whom.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Each(Protocol):
    """Applies a function to every item; the results in order, or what the first to fail raised."""

    def __call__(
        self, make: Callable[[Item], Made], items: Sequence[Item], /
    ) -> Iterable[Made]: ...


def in_turn(make: Callable[[Item], Made], items: Sequence[Item], /) -> list[Made]:
    """By the thread that asks."""
    return [make(item) for item in items]

"""Shares that add up to 1, as coordinates that are free of each other. Pure arithmetic.

The stick is broken piece by piece: coordinate i says how much of what is left share i takes, such
that even coordinates give shares that are even over the simplex. The last share is the rest.
"""

from collections.abc import Iterator, Sequence

ANY = 0.5  # where nothing is left, any coordinate says the same


def shares_at(coordinates: Sequence[float]) -> list[float]:
    """One share more than there are coordinates, each at least 0."""
    shares, left = [], 1.0
    for rest, coordinate in _counted(coordinates):
        share = left * (1 - (1 - coordinate) ** (1 / rest))
        shares.append(share)
        left = max(0.0, left - share)
    return [*shares, left]


def coordinates_of(shares: Sequence[float]) -> list[float]:
    """What `shares_at` makes these of."""
    coordinates, left = [], 1.0
    for rest, share in _counted(shares[:-1]):
        taken = min(1.0, share / left) if left > 0 else None
        coordinates.append(ANY if taken is None else 1 - (1 - taken) ** rest)
        left = max(0.0, left - share)
    return coordinates


def lattice(count: int, steps: int) -> Iterator[list[float]]:
    """Every `count` shares that are multiples of 1 / (steps - 1)."""
    for parts in _compositions(count, steps - 1):
        yield [part / (steps - 1) for part in parts]


def _compositions(count: int, total: int) -> Iterator[list[int]]:
    if count == 1:
        yield [total]
        return
    for first in range(total + 1):
        for rest in _compositions(count - 1, total - first):
            yield [first, *rest]


def _counted(values: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Each value and how many shares come after it."""
    return zip(range(len(values), 0, -1), values, strict=True)

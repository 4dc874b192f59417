"""The k entries of largest magnitude, exactly k, in two counting passes and one for ties.

Equal magnitudes are taken in the order of the layers' names, then of the places of the weight.
Memory does not grow with the number of entries, those equal to the smallest taken excepted.
"""

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters_store.adapter import BlockDelta, WeightDelta
from adapters_store.merging.choosing import (
    LOW_BITS,
    count_high,
    count_low,
    equal_places,
)
from adapters_store.merging.compiled import compiled
from adapters_store.merging.sources import Runs, source
from adapters_store.merging.space import Space, own_grid, row_major

AFTER_ALL_PLACES = 2**62


class Cut(NamedTuple):
    """A set of entries: those larger than `magnitude`, and those equal to it before a place."""

    magnitude: float
    layer: str = ""
    place: int = 0

    def within(self, layer: str) -> tuple[float, int]:
        """The set in one layer, as `choosing.keep_band` has it."""
        if layer == self.layer:
            return self.magnitude, self.place
        return self.magnitude, AFTER_ALL_PLACES if layer < self.layer else 0


NOTHING, EVERYTHING = Cut(math.inf), Cut(-1.0)


class Entries(NamedTuple):
    """Some entries of a layer, in some space."""

    layer: str
    space: Space
    runs: Runs


Read = Callable[[], Iterator[Entries]]  # the same entries at every call, layers in order of names


def entries_of(delta: WeightDelta) -> Iterator[Entries]:
    """All entries of `delta`, in the order that costs least."""
    space = own_grid(delta) if isinstance(delta, BlockDelta) else row_major(delta.shape)
    entries = source(delta, space)
    return (Entries(delta.layer, space, entries.runs(panel)) for panel in space.panels)


def largest(read: Read, count: int) -> Cut:
    """The set of the `count` largest entries of all that `read` gives."""
    if count <= 0:
        return NOTHING
    high, count = _bin(_counts(read, None), count)
    if high < 0:
        return EVERYTHING
    low, count = _bin(_counts(read, high), count)
    bits = (high << LOW_BITS) | low
    return Cut(float(np.uint32(bits).view(np.float32)), *_tie(read, bits, count))


def _counts(read: Read, high: int | None) -> NDArray[np.int64]:
    counts = np.zeros(1 << (16 if high is None else LOW_BITS), np.int64)
    for entries in read():
        bits = entries.runs.values.reshape(-1).view(np.uint32)
        if high is None:
            compiled(count_high)(bits, counts)
        else:
            compiled(count_low)(bits, high, counts)
    return counts


def _bin(counts: NDArray[np.int64], count: int) -> tuple[int, int]:
    """The bin that holds the count-th entry from the top, and which one it is in there.

    (-1, ...) where there are fewer.
    """
    from_top = counts[::-1].cumsum()
    position = int(from_top.searchsorted(count))
    if position == len(counts):
        return -1, 0
    above = int(from_top[position]) - int(counts[::-1][position])
    return len(counts) - 1 - position, count - above


def _tie(read: Read, bits: int, count: int) -> tuple[str, int]:
    """The layer and place before which lie the first `count` entries of exactly that magnitude."""
    for layer, group in groupby(read(), key=lambda entries: entries.layer):
        places = np.concatenate([_equal(entries, bits) for entries in group])
        if len(places) >= count:
            return layer, int(np.partition(places, count - 1)[count - 1]) + 1
        count -= len(places)
    raise AssertionError("fewer entries than were counted")


def _equal(entries: Entries, bits: int) -> NDArray[np.int64]:
    starts, values = entries.runs
    places = np.empty(values.size, np.int64)
    geometry = entries.space.geometry
    count = compiled(equal_places)(starts, values.view(np.uint32), geometry, bits, places)
    return places[:count].copy()

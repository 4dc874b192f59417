"""Inner loops that choose entries: by magnitude, by rank, or by a draw. Plain Python for Numba.

A *draw* is a number from 0 to 2**53 - 1 that depends on a key and a place of the weight alone (the
SplitMix64 stream of the key, at that place). Places of the weight are flat and row-major, whatever
space the entries are in. Symbols and runs as in `loops.py`.
"""

from typing import Any

import numpy as np

from adapters_store.merging.compiled import inlined

Array = Any  # NumPy arrays; Numba compiles for their dtypes

MAGNITUDE_BITS = 0x7FFFFFFF  # of an fp32 number; magnitudes compare as these integers do
LOW_BITS = 15  # of them are looked at in the second pass, the rest in the first


@inlined
def weight_place(place: int, geometry: Array) -> int:
    """The flat row-major place in the weight of a place of a space."""
    block_rows, block_columns, tiles_per_row = geometry[0], geometry[1], geometry[2]
    stride, group = geometry[3], geometry[4] // geometry[3]
    if block_rows * tiles_per_row * stride == 1:
        return place  # row-major: five divisions less for every draw
    tile, within = place // (block_rows * block_columns), place % (block_rows * block_columns)
    permuted = (tile // tiles_per_row) * block_rows + within // block_columns
    column = (tile % tiles_per_row) * block_columns + within % block_columns
    row = (permuted % group) * stride + permuted // group
    return int(row * tiles_per_row * block_columns + column)


@inlined
def draw(key: np.uint64, place: int) -> np.uint64:
    """53 uniform bits for `place`."""
    z = key + np.uint64(place + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(11)


def keep_band(
    starts: Array,
    values: Array,
    geometry: Array,
    low: tuple[float, int],
    high: tuple[float, int],
    places: Array,
    kept: Array,
) -> int:
    """Entries of the set `low` that are not of the set `high`; their number.

    The set (magnitude, place) holds what is larger than the magnitude, and what is equal to it at
    places of the weight before `place`.
    """
    count = 0
    for i in range(starts.size):
        for j in range(values.shape[1]):
            magnitude, place = abs(values[i, j]), starts[i] + j
            if magnitude < low[0] or magnitude > high[0]:
                continue
            if magnitude == low[0] and weight_place(place, geometry) >= low[1]:
                continue
            if magnitude == high[0] and weight_place(place, geometry) < high[1]:
                continue
            places[count], kept[count] = place, values[i, j]
            count += 1
    return count


def keep_drawn(
    starts: Array,
    values: Array,
    geometry: Array,
    key: np.uint64,
    bound: np.uint64,
    places: Array,
    kept: Array,
) -> int:
    """Entries whose draw is below `bound`; their number."""
    count = 0
    for i in range(starts.size):
        for j in range(values.shape[1]):
            place = starts[i] + j
            if draw(key, weight_place(place, geometry)) < bound:
                places[count], kept[count] = place, values[i, j]
                count += 1
    return count


def keep_probable(
    starts: Array,
    values: Array,
    probabilities: Array,
    key: np.uint64,
    places: Array,
    kept: Array,
) -> int:
    """Single entries in row-major order whose draw, as a share of 1, is below their probability."""
    count = 0
    for i in range(starts.size):
        if float(draw(key, starts[i])) * 2.0**-53 < probabilities[i]:
            places[count], kept[count] = starts[i], values[i, 0]
            count += 1
    return count


def keep_selected(
    starts: Array, values: Array, selected: Array, first: int, places: Array, kept: Array
) -> int:
    """Entries at the panel's `selected` places; their number."""
    count = 0
    for i in range(starts.size):
        for j in range(values.shape[1]):
            if selected[starts[i] + j - first]:
                places[count], kept[count] = starts[i] + j, values[i, j]
                count += 1
    return count


def count_high(bits: Array, counts: Array) -> None:
    """Count magnitudes (fp32 bits) by their high bits."""
    for i in range(bits.size):
        counts[(bits[i] & MAGNITUDE_BITS) >> LOW_BITS] += 1


def count_low(bits: Array, high: int, counts: Array) -> None:
    """Count the magnitudes with those high bits by their low ones."""
    for i in range(bits.size):
        magnitude = bits[i] & MAGNITUDE_BITS
        if magnitude >> LOW_BITS == high:
            counts[magnitude & ((1 << LOW_BITS) - 1)] += 1


def equal_places(starts: Array, bits: Array, geometry: Array, magnitude: int, places: Array) -> int:
    """Places of the weight of the entries `[n, length]` of that magnitude; their number."""
    count = 0
    for i in range(starts.size):
        for j in range(bits.shape[1]):
            if bits[i, j] & MAGNITUDE_BITS == magnitude:
                places[count] = weight_place(starts[i] + j, geometry)
                count += 1
    return count

"""Inner loops over the entries of one member in one panel, as plain Python that Numba compiles.

Entries come as *runs*: run i is `values[i, :]` (fp32) at the places `starts[i], starts[i] + 1, ...`
of a space; `first` is the panel's first place. Sums are fp64. A product of an fp32 value and an
fp32 weight is exact in fp64, so no compiler's contraction could change a bit of it.
"""

from typing import Any

import numpy as np

Array = Any  # NumPy arrays; Numba compiles for their dtypes


def add(total: Array, held: Array, first: int, starts: Array, values: Array, weight: float) -> None:
    """`total += weight * values`, and count the mask in `held`."""
    length = values.shape[1]
    if length == 1:
        for i in range(starts.size):
            at = starts[i] - first
            total[at] += weight * values[i, 0]
            held[at] += 1
        return
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(length):
            total[at + j] += weight * values[i, j]
            held[at + j] += 1


def add_share(amount: Array, first: int, starts: Array, length: int, share: float) -> None:
    """`amount += share` at the places of the runs."""
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(length):
            amount[at + j] += share


def vote_sum(votes: Array, first: int, starts: Array, values: Array, weight: float) -> None:
    """`votes += weight * values`."""
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(values.shape[1]):
            votes[at + j] += weight * values[i, j]


def vote_count(votes: Array, first: int, starts: Array, values: Array, weight: float) -> None:
    """`votes += sign(weight * values)`."""
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(values.shape[1]):
            term = weight * values[i, j]
            votes[at + j] += (term > 0) - (term < 0)


def add_agreeing(
    total: Array,
    held: Array,
    amount: Array,
    votes: Array,
    first: int,
    starts: Array,
    values: Array,
    weight: float,
    share: float,
) -> None:
    """`add` of the entries whose weighted sign is that of `votes` (+1 for a vote of 0).

    `held` counts the others too; `amount += share` where an entry was added.
    """
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(values.shape[1]):
            term = weight * values[i, j]
            held[at + j] += 1
            if (term > 0 and votes[at + j] >= 0) or (term < 0 and votes[at + j] < 0):
                total[at + j] += term
                amount[at + j] += share


def divide(total: Array, divisor: Array) -> None:
    """`total /= divisor`; a divisor of 0 is 1."""
    for i in range(total.size):
        total[i] /= divisor[i] if divisor[i] != 0 else 1


def count_beyond(values: Array, limit: float) -> int:
    """How many are not from -limit to limit (NaN is not)."""
    count = 0
    for i in range(values.size):
        count += not abs(values[i]) <= limit
    return count


def take_entries(
    total: Array, held: Array, first: int, places: Array, values: Array, count: int
) -> int:
    """Append the held places to `places` and `values`, which hold `count`; their number after.

    One more is written than counted: to write always is faster than to foresee whether.
    """
    for i in range(total.size):
        places[count] = first + i
        values[count] = total[i]
        count += held[i] != 0
    return count


def take_tiles(
    total: Array, held: Array, first_row: int, tiles: Array, values: Array, count: int
) -> int:
    """Append the rows of the panel that hold anything; `values [n, width]`."""
    width = values.shape[1]
    for row in range(total.size // width):
        if held[row * width : (row + 1) * width].any():
            tiles[count] = first_row + row
            for j in range(width):
                values[count, j] = total[row * width + j]
            count += 1
    return count


def block_runs(
    index: Array,
    values: Array,
    tile_rows: Array,
    geometry: Array,
    first_row: int,
    starts: Array,
    runs: Array,
) -> int:
    """Rows `first_row ...` of a block delta in row-major order: their runs of Bc; their number.

    `tile_rows[r]` to `tile_rows[r + 1]` are the tiles of tile row r. `starts` and `runs` have room
    for every tile of the rows that are wanted.
    """
    block_rows, block_columns, tiles_per_row = geometry[0], geometry[1], geometry[2]
    stride, group = geometry[3], geometry[4] // geometry[3]
    count = 0
    for row in range(first_row, first_row + starts.size // tiles_per_row):
        permuted = (row % stride) * group + row // stride
        tile_row, within = permuted // block_rows, permuted % block_rows
        for tile in range(tile_rows[tile_row], tile_rows[tile_row + 1]):
            column = (index[tile] - tile_row * tiles_per_row) * block_columns
            starts[count] = row * tiles_per_row * block_columns + column
            for j in range(block_columns):
                runs[count, j] = values[tile, within, j]
            count += 1
    return count


def product_rows(b: Array, a: Array, scale: float, total: Array, out: Array) -> None:
    """`out = scale * (b @ a)` of fp32 rows, summed in fp64 in the order of the rank.

    Products of fp32 numbers are exact in fp64, so the bits are the same on every machine.
    """
    for row in range(b.shape[0]):
        total[:] = 0.0
        for k in range(b.shape[1]):
            factor = np.float64(b[row, k])  # float() would leave it fp32 in Numba
            for j in range(a.shape[1]):
                total[j] += factor * a[k, j]
        for j in range(a.shape[1]):
            out[row, j] = scale * total[j]


def dot(x: Array, y: Array) -> float:
    """`sum(x * y)` in the order of the places."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


def sum_powers(values: Array) -> tuple[float, float]:
    """Sums of |value| and of value squared, in order."""
    absolute, squared = 0.0, 0.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            value = np.float64(values[i, j])
            absolute += abs(value)
            squared += value * value
    return absolute, squared


def add_deviations(
    deviation: Array, mean: Array, first: int, starts: Array, values: Array, weight: float
) -> None:
    """`deviation += (weight * values - mean) ** 2`."""
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(values.shape[1]):
            difference = weight * values[i, j] - mean[at + j]
            deviation[at + j] += difference * difference

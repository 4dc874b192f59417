# The inner loops: plain Python that `compiled.py` turns into machine code.
"""Inner loops over the entries of one member in one panel.

Entries come as *runs*: run i is `values[i, :]` (fp32) at the places `starts[i], starts[i] + 1, ...`
of a space; `first` is the panel's first place. Sums are fp64. A product of an fp32 value and an
fp32 weight is exact in fp64, so no compiler's contraction could change a bit of it.
"""

from typing import Any

Array = Any  # NumPy arrays; Numba compiles for their dtypes


def add(total: Array, held: Array, first: int, starts: Array, values: Array, weight: float) -> None:
    """`total += weight * values`, and count the mask in `held`."""
    length = values.shape[1]
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(length):
            total[at + j] += weight * values[i, j]
            held[at + j] += 1


def mark(held: Array, first: int, starts: Array, length: int) -> None:
    """Count the mask alone."""
    for i in range(starts.size):
        at = starts[i] - first
        for j in range(length):
            held[at + j] += 1


def divide(total: Array, divisor: Array) -> None:
    """`total /= divisor` where the divisor is not 0."""
    for i in range(total.size):
        if divisor[i] != 0:
            total[i] /= divisor[i]


def take_entries(
    total: Array, held: Array, first: int, places: Array, values: Array, count: int
) -> int:
    """Append the held places to `places` and `values`, which hold `count`; their number after."""
    for i in range(total.size):
        if held[i] != 0:
            places[count] = first + i
            values[count] = total[i]
            count += 1
    return count


def take_tiles(
    total: Array, held: Array, first_row: int, tiles: Array, values: Array, count: int
) -> int:
    """Append the rows of the panel that hold anything; `values [n, width]`."""
    width = values.shape[1]
    for row in range(total.size // width):
        any_held = False
        for j in range(width):
            any_held |= held[row * width + j] != 0
        if any_held:
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

    `tile_rows[r]` to `tile_rows[r + 1]` are the tiles of tile row r; `starts` has one row for
    every weight row wanted, as many as fit are filled.
    """
    block_rows, block_columns, tiles_per_row = geometry[0], geometry[1], geometry[2]
    stride, group = geometry[3], geometry[4] // geometry[3]
    count = 0
    for row in range(first_row, first_row + starts.shape[0] // tiles_per_row):
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
            factor = float(b[row, k])
            for j in range(a.shape[1]):
                total[j] += factor * a[k, j]
        for j in range(a.shape[1]):
            out[row, j] = scale * total[j]

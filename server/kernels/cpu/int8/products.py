"""Products with quantized weights, of activations that are quantized on the way, row by row."""

from typing import Any

import numpy as np
from torch import Tensor

from server.kernels.cpu.compiled import as_written
from server.kernels.cpu.int8.grouped import GROUP, LARGEST, SMALLEST
from server.kernels.cpu.int8.layout import GROUP_BYTES, OFFSET, row_bytes
from server.kernels.cpu.int8.rounding import highest_bits, round_to_bytes
from server.kernels.cpu.int8.tiles import MOST_ROWS, multiply_rows
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import WIDTH, copy, prefetch

NOT_FINITE, SMALLEST_BITS = np.array([np.inf, SMALLEST], np.float32).view(np.int32)  # bits
SERIAL_NUMBERS = 32768  # of fewer, no second thread is worth waking to quantize them


def product(x: Tensor, packed: Tensor, threads: int) -> Tensor:
    """`x @ W.T` of fp32 rows `x [n, in]` and the W that `layout.pack` packed: `[n, out]`."""
    assert packed.shape[1] == row_bytes(x.shape[1]), "packed for another width"
    y = x.new_empty(x.shape[0], packed.shape[0])
    multiply(x.contiguous().numpy(), packed.data_ptr(), threads, y.numpy())
    return y


@as_written
def multiply(x: Any, weight: int, threads: int, y: Any) -> None:
    """Fill `y [n, out]` by the W that lies, packed, at the address `weight`."""
    groups = (x.shape[1] + GROUP - 1) // GROUP
    numbers = np.empty(len(x) * groups * GROUP, np.int8)
    starts = np.empty(len(x) * groups, np.int32)
    scales = np.empty(len(x) * groups, np.float32)
    at_once = threads if x.size >= SERIAL_NUMBERS else 1
    run_tasks(_quantize_row, len(x), at_once, (x, groups, numbers, starts, scales))
    tiles = (y.shape[1] + WIDTH - 1) // WIDTH
    run_tasks(_multiply_tile, tiles, threads, (weight, threads, groups, numbers, starts, scales, y))


@as_written
def _quantize_row(row: int, x: Any, groups: int, numbers: Any, starts: Any, scales: Any) -> None:
    """As `grouped.quantize` does it; and where the sum of each group begins."""
    own, whole = x[row], x.shape[1] // GROUP
    for group in range(whole):
        _quantize(own, group * GROUP, row * groups + group, numbers, starts, scales)
    if whole < groups:
        filled = np.zeros(GROUP, np.float32)
        for i in range(whole * GROUP, x.shape[1]):
            filled[i - whole * GROUP] = own[i]
        _quantize(filled, 0, row * groups + whole, numbers, starts, scales)


@as_written
def _quantize(own: Any, first: int, at: int, numbers: Any, starts: Any, scales: Any) -> None:
    highest = highest_bits(own, first)
    if highest >= NOT_FINITE or highest < SMALLEST_BITS:
        numbers[at * GROUP : (at + 1) * GROUP] = 0
        starts[at] = 0
        scales[at] = np.nan if highest >= NOT_FINITE else 0
        return
    largest = np.int32(highest).view(np.float32)
    inverse = np.float32(LARGEST) / largest
    total = round_to_bytes(own, first, inverse, numbers, at * GROUP)
    starts[at] = -OFFSET * total  # the weight's numbers are kept so much higher
    scales[at] = largest / np.float32(LARGEST)


@as_written
def _multiply_tile(
    tile: int,
    weight: int,
    threads: int,
    groups: int,
    numbers: Any,
    starts: Any,
    scales: Any,
    y: Any,
) -> None:
    address, first = weight + tile * groups * GROUP_BYTES, tile * WIDTH
    width, made = min(WIDTH, y.shape[1] - first), y.reshape(-1)
    has_next = (tile + threads) * WIDTH < y.shape[1]
    following = address + threads * groups * GROUP_BYTES if has_next else address
    sums = np.empty(MOST_ROWS * WIDTH, np.float32)
    row = 0
    while row < len(y):
        sums[:] = 0
        for i in range(min(MOST_ROWS, len(y) - row)):
            prefetch(made, (row + i) * y.shape[1] + first, width)
        count = multiply_rows(
            sums, numbers, starts, scales, row, len(y), address, groups, following
        )
        for i in range(count):
            copy(made, (row + i) * y.shape[1] + first, sums, i * WIDTH, width)
        row += count

"""Products with quantized weights, of activations that are quantized on the way, row by row."""

from typing import Any

import numpy as np
from torch import Tensor

from server.kernels.cpu.compiled import as_written
from server.kernels.cpu.int8.grouped import GROUP, LARGEST, SMALLEST
from server.kernels.cpu.int8.layout import GROUP_BYTES, OFFSET
from server.kernels.cpu.int8.tiles import MOST_ROWS, multiply
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import WIDTH

MAGNITUDE, NOT_FINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)  # bits of fp32
SERIAL_ROWS = 4  # of fewer, no second thread is worth waking to quantize them


def product(x: Tensor, packed: Tensor, threads: int) -> Tensor:
    """`x @ W.T` of fp32 rows `x [n, in]` and the W that `layout.pack` packed: `[n, out]`."""
    y = x.new_empty(x.shape[0], packed.shape[0])
    _multiply(x.contiguous().numpy(), packed.data_ptr(), threads, y.numpy())
    return y


@as_written
def _multiply(x: Any, weight: int, threads: int, y: Any) -> None:
    groups = (x.shape[1] + GROUP - 1) // GROUP
    numbers = np.empty(len(x) * groups * GROUP, np.int8)
    starts = np.empty(len(x) * groups, np.int32)
    scales = np.empty(len(x) * groups, np.float32)
    at_once = threads if len(x) >= SERIAL_ROWS else 1
    run_tasks(_quantize_row, len(x), at_once, (x, groups, numbers, starts, scales))
    tiles = (y.shape[1] + WIDTH - 1) // WIDTH
    run_tasks(_multiply_tile, tiles, threads, (weight, groups, numbers, starts, scales, y))


@as_written
def _quantize_row(row: int, x: Any, groups: int, numbers: Any, starts: Any, scales: Any) -> None:
    """As `grouped.quantize` does it; and where the sum of each group begins."""
    width = x.shape[1]
    filled = np.zeros(GROUP, np.float32)
    for group in range(groups):
        at, first = row * groups + group, group * GROUP
        made = numbers[at * GROUP : (at + 1) * GROUP]
        if first + GROUP <= width:
            scales[at], total = _quantize(x[row, first : first + GROUP], made)
        else:
            filled[: width - first] = x[row, first:]
            scales[at], total = _quantize(filled, made)
        starts[at] = -OFFSET * total  # the weight's numbers are kept so much higher


@as_written
def _quantize(group: Any, numbers: Any) -> Any:
    """Fill `numbers` of a group; its scale, and the sum of its numbers."""
    numbers[:] = 0
    total, most = np.int32(0), _highest(group.view(np.int32))
    if most >= NOT_FINITE:
        return np.float32(np.nan), total
    largest = np.int32(most).view(np.float32)
    if largest < np.float32(SMALLEST):
        return np.float32(0), total
    inverse = np.float32(LARGEST) / largest
    for i in range(GROUP):
        number = np.int32(np.rint(group[i] * inverse))
        numbers[i] = number
        total = np.int32(total + number)
    return largest / np.float32(LARGEST), total


@as_written
def _highest(bits: Any) -> Any:
    """The bits of the largest magnitude; those of what is no finite number are higher."""
    most = np.int32(0)
    for i in range(GROUP):
        most = max(most, np.int32(bits[i] & MAGNITUDE))
    return most


@as_written
def _multiply_tile(
    tile: int, weight: int, groups: int, numbers: Any, starts: Any, scales: Any, y: Any
) -> None:
    address, first = weight + tile * groups * GROUP_BYTES, tile * WIDTH
    width = min(WIDTH, y.shape[1] - first)
    sums = np.empty(MOST_ROWS * WIDTH, np.float32)
    row = 0
    while row < len(y):
        sums[:] = 0
        count = multiply(sums, numbers, starts, scales, row, len(y), address, groups)
        for i in range(count):
            for j in range(width):
                y[row + i, first + j] = sums[i * WIDTH + j]
        row += count

"""Products of few rows with packed weights, at the speed of memory.

With few rows a product takes as long as its weights take to come, and oneDNN's own kernels for them
do not keep memory busy, nor all threads. These read a pack block by block and give the same bits:
oneDNN sums the products of `depth` columns one after the other, each with one rounding, and then
adds the sums of these parts. How many columns that is depends on the shape and the machine, so it
is learned by multiplying; where nothing gives the same bits, oneDNN multiplies.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from server.kernels.cpu import products
from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.threads import can_share_threads, run_tasks
from server.kernels.cpu.tiles import Matrix, accumulate
from server.kernels.cpu.vectors import FLOAT, INDEX, LANES, bring, prefetch, start_of

BLOCK = 64  # rows of a weight that a pack holds side by side, column after column
PANEL = 6  # rows of x that are multiplied at a time: their sums fill a processor's registers
FEW = 192  # rows of x: of more, oneDNN's products take no longer
AHEAD = 12  # rows of x: while more are multiplied with a block, what comes next is brought near,
AHEAD_LINES = 2  # so many lines of memory with every column,
AHEAD_BYTES = 1 << 18  # but no more than fits beside what is multiplied
DEPTHS = (256, 384, 512, 768, 1024, 1536, 2048)  # that parts of a sum may have
PROBED = (2, 8, 32)  # rows that are multiplied to learn it,
REPEATED = 3  # and the last ones so many times: rows of few and of many sum alike
NOT_KNOWN = 0
FP32_BYTES = 4


def product(x: Tensor, weight: Tensor, threads: int) -> Tensor:
    """What `products.product` gives, to the bit."""
    if not weight.is_mkldnn or x.shape[0] > FEW:
        return products.product(x, weight)
    depth = depth_of(weight.shape[0], weight.shape[1])
    if depth == NOT_KNOWN:
        return products.product(x, weight)
    return _multiplied(x, weight, depth, threads)


@cache
def depth_of(out: int, width: int) -> int:
    """Columns of one part of a sum, for weights of this shape; or NOT_KNOWN."""
    can_share_threads()
    source = torch.Generator().manual_seed(0)
    # Its numbers differ, and are made faster than as many random ones.
    plain = torch.outer(torch.randn(out, generator=source), torch.randn(width, generator=source))
    weight = products.pack(plain)
    if not _has_size_of_blocks(weight):
        return NOT_KNOWN
    x = torch.randn(PROBED[-1], width, generator=source)
    expected = [products.product(x[:rows], weight) for rows in PROBED]
    expected.append(products.product(x.repeat(REPEATED, 1), weight)[-len(x) :])
    for depth in (width, *(depth for depth in DEPTHS if depth < width)):
        found = _multiplied(x, weight, depth, threads=1)
        if all(torch.equal(found[: len(own)], own) for own in expected):
            return depth
    return NOT_KNOWN


def _has_size_of_blocks(weight: Tensor) -> bool:
    """Or it would be read beyond its end."""
    num_bytes: int = torch.ops.mkldnn._nbytes(weight)
    return num_bytes == -(-weight.shape[0] // BLOCK) * BLOCK * weight.shape[1] * FP32_BYTES


def _multiplied(x: Tensor, weight: Tensor, depth: int, threads: int) -> Tensor:
    y = torch.empty(x.shape[0], weight.shape[0])
    address = torch.ops.mkldnn.data_ptr(weight)
    multiply(address, depth, x.contiguous().numpy(), y.numpy(), threads)
    return y


def _panel(rows: int, lines: int = 0) -> Any:
    """`panel(sums, x, x_at, x_step, address, at, columns, ahead)`: `sums [rows, BLOCK]` += X W.T.

    X `[rows, columns]` begins at `x_at`, W at the number `at` of a pack, of which `columns * lines`
    lines of memory from the number `ahead` on are brought near on the way.
    """

    def panel(
        typing: Any,
        c: Any,
        x: Any,
        x_at: Any,
        x_step: Any,
        address: Any,
        at: Any,
        columns: Any,
        ahead: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            def number(value: int) -> Any:
                return ir.Constant(INDEX, value)

            def bring_lines(column: Any) -> None:
                first = builder.mul(column, number(lines * LANES))
                for line in range(lines):
                    place = builder.add(first, number(line * LANES))
                    bring(builder, builder.gep(far, [place]))

            sums = Matrix(start_of(context, builder, c, values[0], number(0)), number(BLOCK))
            factors = Matrix(start_of(context, builder, x, *values[1:3]), values[3])
            pack = builder.inttoptr(values[4], FLOAT.as_pointer())
            start, far = (builder.gep(pack, [values[place]]) for place in (5, 7))
            firsts = (number(first) for first in range(0, BLOCK, LANES))
            parts = [Matrix(builder.gep(start, [first]), number(BLOCK)) for first in firsts]
            accumulate(builder, rows, sums, factors, parts, values[6], bring_lines)
            return context.get_dummy_value()

        i = types.int64
        return types.void(c, x, i, i, i, i, i, i), generate

    return intrinsic(panel)


_panel_of_6, _panel_of_4, _panel_of_2, _panel_of_1 = map(_panel, (PANEL, 4, 2, 1))
_panel_of_6_ahead = _panel(PANEL, AHEAD_LINES)


@compiled
def multiply(address: int, depth: int, x: Any, y: Any, threads: int) -> None:
    """`y[:] = x W.T` of the pack at `address`, in parts of `depth` columns."""
    blocks = (y.shape[1] + BLOCK - 1) // BLOCK
    whole = blocks // threads * threads if len(x) > PANEL else blocks
    tasks = whole + (blocks - whole) * threads
    run_tasks(_multiply_block, tasks, threads, (whole, threads, address, depth, x, y))


@compiled
def _multiply_block(
    task: int, whole: int, threads: int, address: int, depth: int, x: Any, y: Any
) -> None:
    """A block and all rows; of blocks that are too few for all threads, each takes some rows."""
    sums = np.empty(PANEL * BLOCK, np.float32)
    if task < whole:
        following = task + threads if task + threads < whole else task
        _multiply_rows(sums, address, depth, task, following, 0, len(x), x, y)
        return
    block, part = whole + (task - whole) // threads, (task - whole) % threads
    share = (len(x) + PANEL * threads - 1) // (PANEL * threads) * PANEL
    _multiply_rows(sums, address, depth, block, block, part * share, (part + 1) * share, x, y)


@compiled
def _multiply_rows(
    sums: Any,
    address: int,
    depth: int,
    block: int,
    following: int,
    first: int,
    past: int,
    x: Any,
    y: Any,
) -> None:
    """Rows `[first, past)`, as far as there are any. A part of the block stays near meanwhile.

    While many are multiplied, what is wanted next comes near: up to the whole block `following`.
    """
    width, flat, result = x.shape[1], x.reshape(-1), y.reshape(-1)
    made = y[:, block * BLOCK : min((block + 1) * BLOCK, y.shape[1])]
    past = min(past, len(x))
    distance = width if width * BLOCK * FP32_BYTES <= AHEAD_BYTES else min(depth, width)
    for column in range(0, width, depth):
        columns, at = min(depth, width - column), (block * width + column) * BLOCK
        row, brought = first, 0 if past - first > AHEAD else columns * BLOCK
        while row < past:
            sums[:] = 0
            start, left = row * width + column, past - row
            for i in range(row, row + min(left, PANEL)):
                prefetch(result, i * y.shape[1] + block * BLOCK, made.shape[1])
            if left >= PANEL and brought < columns * BLOCK:
                ahead = _ahead((column + distance) * BLOCK + brought, block, following, width)
                _panel_of_6_ahead(sums, flat, start, width, address, at, columns, ahead)
                count = PANEL
                brought += columns * AHEAD_LINES * LANES
            else:
                count = _sum_panel(sums, flat, start, width, address, at, columns, left)
            for i in range(count):
                part = sums[i * BLOCK : i * BLOCK + made.shape[1]]
                if column == 0:
                    _copy(made[row + i], part)
                else:
                    _add(made[row + i], part)
            row += count


@compiled
def _ahead(number: int, block: int, following: int, width: int) -> int:
    """The place in a pack of what lies so far from the start of `block`, or in the next one."""
    size = width * BLOCK
    return block * size + number if number < size else (following - 1) * size + number


@compiled
def _sum_panel(
    sums: Any, x: Any, x_at: int, x_step: int, address: int, at: int, columns: int, rows: int
) -> int:
    """Add the products of up to so many rows, and return of how many."""
    if rows >= PANEL:
        _panel_of_6(sums, x, x_at, x_step, address, at, columns, at)
        return PANEL
    if rows >= 4:
        _panel_of_4(sums, x, x_at, x_step, address, at, columns, at)
        return 4
    if rows >= 2:
        _panel_of_2(sums, x, x_at, x_step, address, at, columns, at)
        return 2
    _panel_of_1(sums, x, x_at, x_step, address, at, columns, at)
    return 1


@compiled
def _copy(sums: Any, numbers: Any) -> None:
    # As a loop: Numba's own assignment brings the texts of its errors, seconds of compiling.
    for i in range(len(sums)):
        sums[i] = numbers[i]


@compiled
def _add(sums: Any, numbers: Any) -> None:
    for i in range(len(sums)):
        sums[i] += numbers[i]

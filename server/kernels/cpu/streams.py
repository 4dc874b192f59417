"""Products of few rows with packed weights, at the speed of memory.

With few rows a product takes as long as its weights take to come, and oneDNN's own kernels for them
do not keep memory busy. These read a pack from its beginning to its end and give the same bits:
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
from server.kernels.cpu.vectors import FLOAT, INDEX, LANES, start_of

BLOCK = 64  # rows of a weight that a pack holds side by side, column after column
NEAR = 64  # columns of a block that all rows are multiplied by before the next
FEW = 4  # rows of x: of more, oneDNN's products take less
DEPTHS = (256, 384, 512, 768, 1024, 1536, 2048)  # that parts of a sum may have
PROBED = (2, 8, 32)  # rows that are multiplied to learn it
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
    expected = {rows: products.product(x[:rows], weight) for rows in PROBED}
    for depth in (width, *(depth for depth in DEPTHS if depth < width)):
        found = _multiplied(x, weight, depth, threads=1)
        if all(torch.equal(found[:rows], own) for rows, own in expected.items()):
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


def _panel(rows: int) -> Any:
    """`panel(sums, x, x_at, x_step, address, at, columns)`: `sums [rows, BLOCK]` += X W.T.

    X `[rows, columns]` begins at `x_at`, W at the number `at` of a pack.
    """

    def panel(
        typing: Any, c: Any, x: Any, x_at: Any, x_step: Any, address: Any, at: Any, columns: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            zero, block = (ir.Constant(INDEX, number) for number in (0, BLOCK))
            sums = Matrix(start_of(context, builder, c, values[0], zero), block)
            factors = Matrix(start_of(context, builder, x, *values[1:3]), values[3])
            start = builder.gep(builder.inttoptr(values[4], FLOAT.as_pointer()), [values[5]])
            firsts = (ir.Constant(INDEX, first) for first in range(0, BLOCK, LANES))
            parts = [Matrix(builder.gep(start, [first]), block) for first in firsts]
            accumulate(builder, rows, sums, factors, parts, values[6])
            return context.get_dummy_value()

        i = types.int64
        return types.void(c, x, i, i, i, i, i), generate

    return intrinsic(panel)


_panel_of_4, _panel_of_3, _panel_of_2, _panel_of_1 = map(_panel, (4, 3, 2, 1))


@compiled
def multiply(address: int, depth: int, x: Any, y: Any, threads: int) -> None:
    """`y[:] = x W.T` of the pack at `address`, in parts of `depth` columns."""
    blocks = (y.shape[1] + BLOCK - 1) // BLOCK
    run_tasks(_multiply_block, blocks, threads, (address, depth, x, y))


@compiled
def _multiply_block(block: int, address: int, depth: int, x: Any, y: Any) -> None:
    sums, flat = np.empty(len(x) * BLOCK, np.float32), x.reshape(-1)
    width = x.shape[1]
    made = y[:, block * BLOCK : min((block + 1) * BLOCK, y.shape[1])]
    for first in range(0, width, depth):
        past = min(first + depth, width)
        sums[:] = 0
        for at in range(first, past, NEAR):
            # All rows take a piece of the weight while it is near, and the next one comes.
            _add_piece(sums, flat, width, address, block * width, at, min(NEAR, past - at))
        for row in range(len(x)):
            part = sums[row * BLOCK : row * BLOCK + made.shape[1]]
            if first == 0:
                _copy(made[row], part)
            else:
                _add(made[row], part)


@compiled
def _add_piece(
    sums: Any, x: Any, width: int, address: int, first: int, column: int, columns: int
) -> None:
    at, num_rows = (first + column) * BLOCK, len(sums) // BLOCK
    for row in range(0, num_rows, 4):
        own, x_at = sums[row * BLOCK :], row * width + column
        if num_rows - row >= 4:
            _panel_of_4(own, x, x_at, width, address, at, columns)
        elif num_rows - row == 3:
            _panel_of_3(own, x, x_at, width, address, at, columns)
        elif num_rows - row == 2:
            _panel_of_2(own, x, x_at, width, address, at, columns)
        else:
            _panel_of_1(own, x, x_at, width, address, at, columns)


@compiled
def _copy(sums: Any, numbers: Any) -> None:
    # As a loop: Numba's own assignment brings the texts of its errors, seconds of compiling.
    for i in range(len(sums)):
        sums[i] = numbers[i]


@compiled
def _add(sums: Any, numbers: Any) -> None:
    for i in range(len(sums)):
        sums[i] += numbers[i]

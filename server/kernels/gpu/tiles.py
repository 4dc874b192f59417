"""Products with 16 x 16 blocks.

The tiles of a tile row lie behind each other, by ascending column. An item of work is one tile
row, for the tokens of one job; DEPTH columns, of DEPTH / 16 tiles, are multiplied at a time: for
few tokens by plain multiply-add, whose sums are kept apart to the end, for more by `tl.dot`.

Owner: (job, tile row) is one item of one program, which alone writes the 16 rows of the weight
that this tile row is (a row stride permutes rows, one to one) for the pairs of its job. No place
is written twice; tiles are added in the order in which they lie.

Bytes read of a delta: an entry's value and an eighth of a bit of column, 2.01 an entry with
16-bit values, once for each job.
"""

import triton.language as tl

from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.products import add_product, joined, no_sums
from server.kernels.gpu.runs import SIGNATURE
from server.kernels.gpu.table import (
    COUNT,
    FIRST,
    ROWS,
    SECOND,
    SIZE,
    THIRD,
    array,
    input_rows,
    items,
    job,
    read,
    store_rows,
)

EDGE = tl.constexpr(16)


@compiled
def _multiply_tiles(
    target: tl.tensor,
    x: tl.tensor,
    tokens: tl.tensor,
    parts: tl.tensor,
    slots: tl.tensor,
    jobs: tl.tensor,
    launch: tl.tensor,
    VALUES: tl.constexpr,
    INTERPRETED: tl.constexpr,
    DOT: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    first, past, tile_rows = items(launch)
    for item in range(first + tl.program_id(0), past, tl.num_programs(0)):
        part, slot, start = job(parts, slots, jobs, item // tile_rows)
        at = item % tile_rows
        if at * EDGE < read(part, ROWS):
            pairs = start + tl.arange(0, TOKENS)
            is_own = pairs < read(slot, COUNT)
            inputs = input_rows(part, slot, tokens, pairs, is_own, EDGE)
            made = _tile_row(part, x, inputs, is_own, at, VALUES, INTERPRETED, DOT, TOKENS, DEPTH)
            rows = rows_of_tile(at, read(part, ROWS), read(part, SIZE))
            store_rows(part, slot, target, pairs, rows, is_own[:, None], made)


@compiled
def rows_of_tile(at: tl.tensor, num_rows: tl.tensor, stride: tl.tensor) -> tl.tensor:
    """The rows of the weight that a tile row is."""
    permuted = at * EDGE + tl.arange(0, EDGE)
    group = num_rows // stride
    return permuted % group * stride + permuted // group


@compiled
def _tile_row(
    part: tl.tensor,
    x: tl.tensor,
    inputs: tl.tensor,
    is_own: tl.tensor,
    at: tl.tensor,
    VALUES: tl.constexpr,
    INTERPRETED: tl.constexpr,
    DOT: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tl.tensor:
    """The products `[TOKENS, EDGE]` with all tiles of a tile row."""
    starts = array(part, FIRST, tl.int32) + at
    tile_columns = array(part, SECOND, tl.uint16)
    values = array(part, THIRD, VALUES)
    begin, end = tl.load(starts), tl.load(starts + 1)
    rows, depth = tl.arange(0, EDGE), tl.arange(0, DEPTH)
    sums = no_sums(DOT, TOKENS, EDGE, DEPTH)
    for first in range(begin, end, DEPTH // EDGE):
        tiles = first + depth // EDGE
        is_tile = tiles < end
        column = tl.load(tile_columns + tiles, is_tile, 0).to(tl.int32) * EDGE + depth % EDGE
        column = tl.max_contiguous(tl.multiple_of(column, [EDGE]), [EDGE])
        numbers = tiles * (EDGE * EDGE) + depth % EDGE
        places = numbers[None, :] + rows[:, None] * EDGE
        weights = tl.load(values + places, is_tile[None, :], 0.0)
        factors = x + (inputs[:, None] + column[None, :])
        factors = tl.load(factors, is_own[:, None] & is_tile[None, :], 0.0)
        sums = add_product(sums, factors, weights, DOT, INTERPRETED)
    return joined(sums, DOT)


MULTIPLY_TILES = Kernel(
    _multiply_tiles,
    SIGNATURE,
    (
        Configuration({"DOT": False, "TOKENS": 1, "DEPTH": 64}, num_warps=4),
        Configuration({"DOT": False, "TOKENS": 8, "DEPTH": 32}, num_warps=8),
        Configuration({"DOT": True, "TOKENS": 16, "DEPTH": 64}, num_warps=4, num_stages=3),
        Configuration({"DOT": True, "TOKENS": 64, "DEPTH": 32}, num_warps=4, num_stages=3),
    ),
)

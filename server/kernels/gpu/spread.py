"""Sparse deltas added to a dense scratch, entry by entry, in the layouts that products read.

Owner: a delta has no entry twice. An item is one slice of rows (or one tile row), it is one
program's, and no other item has entries in those rows. Deltas are added one launch after another,
in one stream. So no number of the scratch ever has two writers.

Bytes: the delta once, and of each entry one number of the scratch read and written.
"""

from functools import partial

import triton.language as tl

from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.products import rounded
from server.kernels.gpu.runs import BOUNDS, LANES, TAIL_BOUNDS, WINDOW_ROWS
from server.kernels.gpu.tiles import EDGE, rows_of_tile


@partial(compiled, varying=("num_slices",))
def _spread_runs(
    scratch: tl.tensor,
    bounds: tl.tensor,
    tails: tl.tensor,
    places: tl.tensor,
    columns: tl.tensor,
    values: tl.tensor,
    factor: tl.tensor,
    width: tl.tensor,
    num_slices: tl.tensor,
    INTERPRETED: tl.constexpr,
    RUN: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Add `factor` times a delta in slices (`runs.py`) to `scratch [rows, width]`."""
    numbers = tl.arange(0, LANES * RUN)
    for at in range(tl.program_id(0), num_slices, tl.num_programs(0)):
        window = at * LANES // WINDOW_ROWS * WINDOW_ROWS
        own = places + at * LANES
        rows = window + tl.load(own + numbers // RUN).to(tl.int32)
        slice_at = bounds + at * BOUNDS
        begin, end = tl.load(slice_at), tl.load(slice_at + 1)
        _add_steps(
            scratch, rows, columns, values, factor, width, begin, end, INTERPRETED, RUN, STEPS
        )
        for tail in range(tl.load(slice_at + 2), tl.load(slice_at + BOUNDS + 2)):
            lane = tl.load(tails + tail * TAIL_BOUNDS)
            begin = tl.load(tails + tail * TAIL_BOUNDS + 1)
            end = tl.load(tails + tail * TAIL_BOUNDS + 2)
            row = window + tl.load(own + lane).to(tl.int32)
            rows_of_tail = tl.zeros([LANES * RUN], tl.int32) + row
            _add_steps(
                scratch,
                rows_of_tail,
                columns,
                values,
                factor,
                width,
                begin,
                end,
                INTERPRETED,
                RUN,
                STEPS,
            )


@compiled
def _add_steps(
    scratch: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    values: tl.tensor,
    factor: tl.tensor,
    width: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    INTERPRETED: tl.constexpr,
    RUN: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Add the steps from `begin` to `end`, whose runs lie in `rows [LANES * RUN]`.

    Padding has zeros, and its places may be an entry's: zeros are not added.
    """
    numbers = tl.arange(0, LANES * RUN)
    for first in range(begin, end, STEPS):
        steps = first + tl.arange(0, STEPS)
        is_step = (steps < end)[:, None]
        run = steps[:, None] * LANES + (numbers // RUN)[None, :]
        column = tl.load(columns + run, is_step, 0).to(tl.int32) + (numbers % RUN)[None, :]
        at = steps[:, None] * (LANES * RUN) + numbers[None, :]
        value = tl.load(values + at, is_step, 0.0).to(tl.float32)
        place = scratch + (rows.to(tl.int64)[None, :] * width + column)
        _add_numbers(place, factor * value, value != 0.0, INTERPRETED)


@partial(compiled, varying=("num_rows", "stride"))
def _spread_tiles(
    scratch: tl.tensor,
    starts: tl.tensor,
    tile_columns: tl.tensor,
    values: tl.tensor,
    factor: tl.tensor,
    width: tl.tensor,
    num_rows: tl.tensor,
    stride: tl.tensor,
    INTERPRETED: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """Add `factor` times a delta in tiles (`tiles.py`) to `scratch [num_rows, width]`."""
    rows, depth = tl.arange(0, EDGE), tl.arange(0, DEPTH)
    for at in range(tl.program_id(0), num_rows // EDGE, tl.num_programs(0)):
        begin, end = tl.load(starts + at), tl.load(starts + at + 1)
        own = rows_of_tile(at, num_rows, stride).to(tl.int64)[:, None] * width
        for first in range(begin, end, DEPTH // EDGE):
            tiles = first + depth // EDGE
            is_tile = (tiles < end)[None, :]
            column = tl.load(tile_columns + tiles, tiles < end, 0).to(tl.int32) * EDGE
            column += depth % EDGE
            numbers = tiles * (EDGE * EDGE) + depth % EDGE
            at_value = values + (numbers[None, :] + rows[:, None] * EDGE)
            value = tl.load(at_value, is_tile, 0.0).to(tl.float32)
            is_entry = is_tile & (value != 0.0)
            _add_numbers(scratch + (own + column[None, :]), factor * value, is_entry, INTERPRETED)


@compiled
def _add_numbers(
    places: tl.tensor, numbers: tl.tensor, mask: tl.tensor, INTERPRETED: tl.constexpr
) -> None:
    dtype: tl.constexpr = places.dtype.element_ty
    total = tl.load(places, mask, 0.0).to(tl.float32) + numbers
    tl.store(places, rounded(total, dtype, INTERPRETED), mask)


SPREAD_RUNS = Kernel(
    _spread_runs,
    {
        "scratch": "*x",
        "bounds": "*i32",
        "tails": "*i32",
        "places": "*u16",
        "columns": "*u16",
        "values": "*v",
        "factor": "fp32",
        "width": "i32",
        "num_slices": "i32",
    },
    (
        Configuration({"RUN": 1, "STEPS": 8}, num_warps=4),
        Configuration({"RUN": 16, "STEPS": 1}, num_warps=8),
    ),
)
SPREAD_TILES = Kernel(
    _spread_tiles,
    {
        "scratch": "*x",
        "starts": "*i32",
        "tile_columns": "*u16",
        "values": "*v",
        "factor": "fp32",
        "width": "i32",
        "num_rows": "i32",
        "stride": "i32",
    },
    (Configuration({"DEPTH": 64}, num_warps=4),),
)

"""Products with the deltas of a whole mixed batch, in one call per layer.

A task is one window of the output's rows: all adapters in order, each for all of its tokens. So
nothing is added to the same place by two threads, and a token's deltas are added in one order.
"""

from typing import Any

import numpy as np
from numba import carray

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.groups import ALONE, Pairs, make_groups
from server.kernels.cpu.low_rank import add_panel, inner_products, place_inner, send_for_panel
from server.kernels.cpu.operands import (
    BIAS,
    DTYPE,
    FIRST,
    FOURTH,
    KIND,
    LOW_RANK,
    RUNS,
    SCALE,
    SECOND,
    SEGMENT,
    SIZE,
    THIRD,
    TILES,
)
from server.kernels.cpu.pointers import FP32, pointer, prefetch_bytes, widen_row
from server.kernels.cpu.runs import ROWS, sum_rows, sum_tile, sum_tile_tokens, sum_tokens
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import LANES, add_product, copy, turn


@compiled
def add_deltas(
    y: Any,
    x: Any,
    table: Any,
    offsets: Any,
    tokens: Any,
    coefficients: Any,
    window: int,
    threads: int,
) -> None:
    """Add to `y [T, out]` every pair's `coefficient * scale * (D @ x)`.

    `table [n, NUM_COLUMNS]` has a row for each operand, by ascending segment: its descriptor, with
    the segment and room for the place of its inner products. The rest is `DeltaBatch`'s.
    """
    pairs = Pairs(x, y, offsets, tokens, coefficients)
    groups = make_groups(pairs, threads)
    inner = np.empty(place_inner(table, offsets), np.float32)
    if len(inner):
        inner_products(table, pairs, inner, threads)
    num_windows = (y.shape[1] + window - 1) // window
    run_tasks(_add_window, num_windows, threads, (window, table, pairs, groups, inner))


@compiled
def _add_window(task: int, window: int, table: Any, pairs: Any, groups: Any, inner: Any) -> None:
    rows = (task * window, min(pairs.y.shape[1], (task + 1) * window))
    sums, wide = np.empty(ROWS * LANES, np.float32), np.empty(window * LANES, np.float32)
    room = (sums, wide, np.empty(window * LANES, np.float32))
    scales = table.view(np.float64)[:, SCALE]
    for at in range(len(table)):
        own, scale = table[at], np.float32(scales[at])
        if at + 2 < len(table):
            _send_for_slices(table[at + 2], rows)
        if at + 1 < len(table):
            _send_for_entries(table[at + 1], rows)
        if own[KIND] == LOW_RANK:
            add_panel(own, scale, rows, pairs, inner, wide)
        elif own[KIND] == BIAS:
            _add_bias(own, scale, rows, pairs, wide)
        else:
            _add_sparse(own, scale, rows, pairs, groups, room)


@compiled
def _send_for_slices(own: Any, rows: Any) -> None:
    """What a sparse delta's entries are found by."""
    if own[KIND] == RUNS or own[KIND] == TILES:
        first, past = rows[0] // LANES, (rows[1] + LANES - 1) // LANES
        prefetch_bytes(own[FIRST], first * 4, past * 4 + 4)
        prefetch_bytes(own[SECOND], rows[0], past * LANES)


@compiled
def _send_for_entries(own: Any, rows: Any) -> None:
    """The entries of a sparse delta in these rows, or B's there."""
    if own[KIND] == RUNS or own[KIND] == TILES:
        size = 4 if own[DTYPE] == FP32 else 2
        first, past = rows[0] // LANES, (rows[1] + LANES - 1) // LANES
        starts = carray(pointer(own[FIRST]), (past + 1,), np.int32)
        begin, end = starts[first] * LANES, starts[past] * LANES
        prefetch_bytes(own[THIRD], begin * 2, end * 2)
        prefetch_bytes(own[FOURTH], begin * own[SIZE] * size, end * own[SIZE] * size)
    elif own[KIND] == LOW_RANK:
        send_for_panel(own, rows)


@compiled
def _add_bias(own: Any, scale: Any, rows: Any, pairs: Any, wide: Any) -> None:
    count, width, y = rows[1] - rows[0], pairs.y.shape[1], pairs.y.reshape(-1)
    widen_row(own[FIRST], own[DTYPE], rows[0], wide[:count])
    for pair in range(pairs.offsets[own[SEGMENT]], pairs.offsets[own[SEGMENT] + 1]):
        share = pairs.coefficients[pair] * scale
        add_product(y, pairs.tokens[pair] * width + rows[0], share, wide, 0, count)


@compiled
def _add_sparse(own: Any, scale: Any, rows: Any, pairs: Any, groups: Any, room: Any) -> None:
    """The rows `[rows[0], rows[1])` of a sparse delta: a whole window's slices."""
    sums, wide, turned = room
    count, width, y = rows[1] - rows[0], pairs.y.shape[1], pairs.y.reshape(-1)
    for group in range(groups.offsets[own[SEGMENT]], groups.offsets[own[SEGMENT] + 1]):
        first, past, place = groups.spans[group]
        if place == ALONE:
            for pair in range(first, past):
                _multiply_token(own, rows, pairs.x, pairs.tokens[pair], sums, wide)
                share = pairs.coefficients[pair] * scale
                add_product(y, pairs.tokens[pair] * width + rows[0], share, wide, 0, count)
        else:
            _multiply_tokens(own, rows, groups.transposed[place], sums, wide)
            _add_turned(pairs, scale, rows, first, past, wide, turned)


@compiled
def _multiply_token(own: Any, rows: Any, x: Any, token: int, sums: Any, wide: Any) -> None:
    """Fill `wide [rows]` with the products of one token."""
    run, values, dtype = own[SIZE], own[FOURTH], own[DTYPE]
    past = (rows[1] + LANES - 1) // LANES
    starts = carray(pointer(own[FIRST]), (past + 1,), np.int32)
    lane_rows = carray(pointer(own[SECOND]), (past * LANES,), np.uint8)
    columns = carray(pointer(own[THIRD]), (1,), np.uint16)
    flat, x_at = x.reshape(-1), token * x.shape[1]
    for at in range(rows[0] // LANES, past):
        steps, v, c = starts[at + 1] - starts[at], starts[at] * run * LANES, starts[at] * LANES
        if own[KIND] == TILES:
            sum_tile(sums, values, dtype, columns, c, flat, x_at, steps, run, 0, v)
        else:
            sum_rows(sums, values, dtype, columns, c, flat, x_at, steps, run, 0, v)
        for lane in range(min(LANES, rows[1] - at * LANES)):
            wide[lane_rows[at * LANES + lane]] = sums[lane]


@compiled
def _multiply_tokens(own: Any, rows: Any, x: Any, sums: Any, wide: Any) -> None:
    """Fill `wide [rows, LANES]` with the products of a group of tokens."""
    run, values, dtype = own[SIZE], own[FOURTH], own[DTYPE]
    past = (rows[1] + LANES - 1) // LANES
    starts = carray(pointer(own[FIRST]), (past + 1,), np.int32)
    lane_rows = carray(pointer(own[SECOND]), (past * LANES,), np.uint8)
    columns = carray(pointer(own[THIRD]), (1,), np.uint16)
    for at in range(rows[0] // LANES, past):
        steps, v, c = starts[at + 1] - starts[at], starts[at] * run * LANES, starts[at] * LANES
        lanes = min(LANES, rows[1] - at * LANES)
        for first in range(0, lanes, ROWS):
            if own[KIND] == TILES:
                sum_tile_tokens(sums, values, dtype, columns, c, x, 0, steps, run, first, v)
            else:
                sum_tokens(sums, values, dtype, columns, c, x, 0, steps, run, first, v)
            for lane in range(first, min(lanes, first + ROWS)):
                row = lane_rows[at * LANES + lane]
                copy(wide, row * LANES, sums, (lane - first) * LANES, LANES)


@compiled
def _add_turned(
    pairs: Any, scale: Any, rows: Any, first: int, past: int, wide: Any, turned: Any
) -> None:
    """Add what `_multiply_tokens` made to the tokens of the pairs `[first, past)`."""
    count, size = rows[1] - rows[0], len(turned) // LANES
    for row in range(0, count, LANES):
        turn(wide, row * LANES, turned, row, size)
    y, width = pairs.y.reshape(-1), pairs.y.shape[1]
    for pair in range(first, past):
        share, to = pairs.coefficients[pair] * scale, pairs.tokens[pair] * width + rows[0]
        add_product(y, to, share, turned, (pair - first) * size, count)

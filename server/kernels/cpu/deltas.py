"""Products with the deltas of a whole mixed batch, in one call per layer.

A task is one window of the output's rows: all adapters in order, each for all of its tokens. So
nothing is added to the same place by two threads, and a token's deltas are added in one order.
"""

from typing import Any

import numpy as np
from numba import carray

from server.kernels.cpu.compiled import compiled, lane_sum
from server.kernels.cpu.groups import ALONE, Pairs, make_groups
from server.kernels.cpu.operands import (
    DTYPE,
    FIRST,
    FOURTH,
    INNER,
    KIND,
    LOW_RANK,
    RUNS,
    SECOND,
    SEGMENT,
    SIZE,
    THIRD,
    TILES,
)
from server.kernels.cpu.pointers import FP32, pointer, prefetch_bytes, widen_row
from server.kernels.cpu.runs import sum_rows, sum_tile, sum_tokens
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import LANES


@compiled
def add_deltas(
    y: Any,
    x: Any,
    table: Any,
    scales: Any,
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
    inner = np.empty(_place_inner(table, offsets), np.float32)
    if len(inner):
        run_tasks(_inner_products, len(table), threads, (table, pairs, inner))
    num_windows = (y.shape[1] + window - 1) // window
    run_tasks(_add_window, num_windows, threads, (window, table, scales, pairs, groups, inner))


@compiled
def _add_window(
    task: int, window: int, table: Any, scales: Any, pairs: Any, groups: Any, inner: Any
) -> None:
    rows = (task * window, min(pairs.y.shape[1], (task + 1) * window))
    sums, column = np.empty(max(LANES, window), np.float32), np.empty(window, np.float32)
    for at in range(len(table)):
        own, scale = table[at], scales[at]
        if at + 2 < len(table):
            _send_for_slices(table[at + 2], rows)
        if at + 1 < len(table):
            _send_for_entries(table[at + 1], rows, pairs.y.shape[1])
        if own[KIND] == RUNS or own[KIND] == TILES:
            _add_runs(own, scale, rows, pairs, groups, sums)
        else:
            _add_columns(own, scale, rows, pairs, inner, sums, column)


@compiled
def _send_for_slices(own: Any, rows: Any) -> None:
    """What a sparse delta's entries are found by."""
    if own[KIND] == RUNS or own[KIND] == TILES:
        first, past = rows[0] // LANES, (rows[1] + LANES - 1) // LANES
        prefetch_bytes(own[FIRST], first * 4, past * 4 + 4)
        prefetch_bytes(own[SECOND], rows[0], past * LANES)


@compiled
def _send_for_entries(own: Any, rows: Any, num_rows: int) -> None:
    """The entries of a sparse delta in these rows, or B's columns there."""
    size = 4 if own[DTYPE] == FP32 else 2
    if own[KIND] == RUNS or own[KIND] == TILES:
        first, past = rows[0] // LANES, (rows[1] + LANES - 1) // LANES
        starts = carray(pointer(own[FIRST]), (past + 1,), np.int32)
        begin, end = starts[first] * LANES, starts[past] * LANES
        prefetch_bytes(own[THIRD], begin * 2, end * 2)
        prefetch_bytes(own[FOURTH], begin * own[SIZE] * size, end * own[SIZE] * size)
    elif own[KIND] == LOW_RANK:
        for k in range(own[SIZE]):
            row = k * num_rows
            prefetch_bytes(own[SECOND], (row + rows[0]) * size, (row + rows[1]) * size)


@compiled
def _add_runs(own: Any, scale: Any, rows: Any, pairs: Any, groups: Any, sums: Any) -> None:
    """The rows `[rows[0], rows[1])` of a sparse delta: a whole window's slices."""
    run, segment, values, dtype = own[SIZE], own[SEGMENT], own[FOURTH], own[DTYPE]
    first_slice, past_slice = rows[0] // LANES, (rows[1] + LANES - 1) // LANES
    starts = carray(pointer(own[FIRST]), (past_slice + 1,), np.int32)
    lane_rows = carray(pointer(own[SECOND]), (past_slice * LANES,), np.uint8)
    columns = carray(pointer(own[THIRD]), (1,), np.uint16)
    flat, num_columns = pairs.x.reshape(-1), pairs.x.shape[1]
    for group in range(groups.offsets[segment], groups.offsets[segment + 1]):
        first, past, place = groups.spans[group]
        for at in range(first_slice, past_slice):
            steps, v, c = starts[at + 1] - starts[at], starts[at] * run * LANES, starts[at] * LANES
            if steps == 0:
                continue
            own_rows = lane_rows[at * LANES : min((at + 1) * LANES, rows[1])]
            if place == ALONE:
                for pair in range(first, past):
                    token = pairs.tokens[pair]
                    x_at = token * num_columns
                    if own[KIND] == TILES:
                        sum_tile(sums, values, dtype, columns, c, flat, x_at, steps, run, 0, v)
                    else:
                        sum_rows(sums, values, dtype, columns, c, flat, x_at, steps, run, 0, v)
                    share = pairs.coefficients[pair] * scale
                    made = pairs.y[token]
                    for lane in range(len(own_rows)):
                        made[rows[0] + own_rows[lane]] += share * sums[lane]
            else:
                x = groups.transposed[place]
                for lane in range(len(own_rows)):
                    sum_tokens(sums, values, dtype, columns, c, x, 0, steps, run, lane, v)
                    row = rows[0] + own_rows[lane]
                    for pair in range(first, past):
                        share = pairs.coefficients[pair] * scale
                        pairs.y[pairs.tokens[pair], row] += share * sums[pair - first]


@compiled
def _place_inner(table: Any, offsets: Any) -> int:
    """Set where each low-rank operand's inner products go, pair by pair; how many there are."""
    total = 0
    for at in range(len(table)):
        if table[at, KIND] == LOW_RANK:
            table[at, INNER] = total
            segment = table[at, SEGMENT]
            total += (offsets[segment + 1] - offsets[segment]) * table[at, SIZE]
    return total


@compiled
def _inner_products(task: int, table: Any, pairs: Any, inner: Any) -> None:
    own = table[task]
    if own[KIND] != LOW_RANK:
        return
    width, segment = pairs.x.shape[1], own[SEGMENT]
    row = np.empty(width, np.float32)
    start = pairs.offsets[segment]
    for k in range(own[SIZE]):
        widen_row(own[FIRST], own[DTYPE], k * width, row)
        for pair in range(start, pairs.offsets[segment + 1]):
            at = own[INNER] + (pair - start) * own[SIZE] + k
            inner[at] = _dot(row, pairs.x[pairs.tokens[pair]])


@lane_sum
def _dot(first: Any, second: Any) -> Any:
    total = np.float32(0)
    for i in range(len(first)):
        total += first[i] * second[i]
    return total


@compiled
def _add_columns(
    own: Any, scale: Any, rows: Any, pairs: Any, inner: Any, sums: Any, column: Any
) -> None:
    """A bias, or B's columns times the inner products of each pair."""
    start, end = pairs.offsets[own[SEGMENT]], pairs.offsets[own[SEGMENT] + 1]
    window, part = sums[: rows[1] - rows[0]], column[: rows[1] - rows[0]]
    address = own[SECOND] if own[KIND] == LOW_RANK else own[FIRST]
    for pair in range(start, end):
        window[:] = 0
        for k in range(own[SIZE]):
            widen_row(address, own[DTYPE], k * pairs.y.shape[1] + rows[0], part)
            factor = np.float32(1)
            if own[KIND] == LOW_RANK:
                factor = inner[own[INNER] + (pair - start) * own[SIZE] + k]
            _add_product(window, factor, part)
        share = pairs.coefficients[pair] * scale
        _add_product(pairs.y[pairs.tokens[pair], rows[0] : rows[1]], share, window)


@compiled
def _add_product(sums: Any, factor: Any, numbers: Any) -> None:
    for i in range(len(sums)):
        sums[i] += factor * numbers[i]

"""Products with the deltas of a whole mixed batch, in one call per layer.

A task is one window of the output's rows: all adapters in order, each for all of its tokens. So
nothing is added to the same place by two threads, and a token's deltas are added in one order.
"""

from typing import Any

import numpy as np
from numba import carray

from server.kernels.cpu.compiled import compiled, lane_sum
from server.kernels.cpu.groups import ALONE, Pairs, make_groups
from server.kernels.cpu.operands import BF16, FP32, LOW_RANK, RUNS
from server.kernels.cpu.pointers import pointer, widened
from server.kernels.cpu.runs import sum_rows, sum_tokens
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import LANES

SEGMENT, KIND, DTYPE, SIZE, FIRST, SECOND, THIRD, FOURTH, INNER = range(9)  # columns of a table


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

    `table [n, 9]` has a row for each operand, by ascending segment: its segment, its descriptor,
    and room for the place of its inner products. The rest is `DeltaBatch`'s.
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
    sums = np.empty(max(LANES, window), np.float32)
    for at in range(len(table)):
        own, scale = table[at], scales[at]
        if own[KIND] == RUNS:
            if own[DTYPE] == FP32:
                fp32 = carray(pointer(own[FOURTH]), (1,), np.float32)
                _add_runs(fp32, own, scale, rows, pairs, groups, sums)
            elif own[DTYPE] == BF16:
                bf16 = carray(pointer(own[FOURTH]), (1,), np.uint16)
                _add_runs(bf16, own, scale, rows, pairs, groups, sums)
            else:
                fp16 = carray(pointer(own[FOURTH]), (1,), np.int16)
                _add_runs(fp16, own, scale, rows, pairs, groups, sums)
        else:
            shape = (own[SIZE], pairs.y.shape[1])
            address = own[SECOND] if own[KIND] == LOW_RANK else own[FIRST]
            if own[DTYPE] == FP32:
                matrix = carray(pointer(address), shape, np.float32)
                _add_columns(matrix, own, scale, rows, pairs, inner, sums)
            elif own[DTYPE] == BF16:
                matrix = carray(pointer(address), shape, np.uint16)
                _add_columns(matrix, own, scale, rows, pairs, inner, sums)
            else:
                matrix = carray(pointer(address), shape, np.int16)
                _add_columns(matrix, own, scale, rows, pairs, inner, sums)


@compiled
def _add_runs(
    values: Any, own: Any, scale: Any, rows: Any, pairs: Any, groups: Any, sums: Any
) -> None:
    """The rows `[rows[0], rows[1])` of a sparse delta: a whole window's slices."""
    run, segment = own[SIZE], own[SEGMENT]
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
                    sum_rows(sums, values, v, columns, c, flat, token * num_columns, steps, run, 0)
                    share = pairs.coefficients[pair] * scale
                    made = pairs.y[token]
                    for lane in range(len(own_rows)):
                        made[rows[0] + own_rows[lane]] += share * sums[lane]
            else:
                x = groups.transposed[place]
                for lane in range(len(own_rows)):
                    sum_tokens(sums, values, v, columns, c, x, 0, steps, run, lane)
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
    shape = (own[SIZE], pairs.x.shape[1])
    if own[DTYPE] == FP32:
        _multiply_a(carray(pointer(own[FIRST]), shape, np.float32), own, pairs, inner)
    elif own[DTYPE] == BF16:
        _multiply_a(carray(pointer(own[FIRST]), shape, np.uint16), own, pairs, inner)
    else:
        _multiply_a(carray(pointer(own[FIRST]), shape, np.int16), own, pairs, inner)


@compiled
def _multiply_a(a: Any, own: Any, pairs: Any, inner: Any) -> None:
    at, segment = own[INNER], own[SEGMENT]
    for pair in range(pairs.offsets[segment], pairs.offsets[segment + 1]):
        for k in range(len(a)):
            inner[at] = _dot(a[k], pairs.x[pairs.tokens[pair]])
            at += 1


@lane_sum
def _dot(stored: Any, numbers: Any) -> Any:
    total = np.float32(0)
    for i in range(len(numbers)):
        total += widened(stored[i]) * numbers[i]
    return total


@compiled
def _add_columns(
    matrix: Any, own: Any, scale: Any, rows: Any, pairs: Any, inner: Any, sums: Any
) -> None:
    """A bias, or B's columns times the inner products of each pair."""
    start, end = pairs.offsets[own[SEGMENT]], pairs.offsets[own[SEGMENT] + 1]
    window = sums[: rows[1] - rows[0]]
    for pair in range(start, end):
        window[:] = 0
        for k in range(len(matrix)):
            factor = np.float32(1)
            if own[KIND] == LOW_RANK:
                factor = inner[own[INNER] + (pair - start) * len(matrix) + k]
            _add_product(window, factor, matrix[k, rows[0] : rows[1]])
        share = pairs.coefficients[pair] * scale
        _add_product(pairs.y[pairs.tokens[pair], rows[0] : rows[1]], share, window)


@compiled
def _add_product(sums: Any, factor: Any, stored: Any) -> None:
    for i in range(len(sums)):
        sums[i] += factor * widened(stored[i])

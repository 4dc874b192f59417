"""The single entries that a laid-out delta changes, told by many threads in time linear in them.

A delta's padding has zeros, and an entry of zero changes nothing: neither is told.
"""

from typing import Any

import numpy as np
import torch
from numba import carray

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.operands import CompiledOperand, window_rows
from server.kernels.cpu.packed_numbers import PlaceMap
from server.kernels.cpu.pointers import pointer, widen_row
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import LANES
from server.kernels.interface import Entries


def operand_entries(operand: CompiledOperand, places: PlaceMap, threads: int) -> Entries:
    """The entries of an operand of runs, by the `places` of its weight."""
    num_rows = len(places.rows)
    window = window_rows(num_rows)
    starts = np.zeros(-(-num_rows // window) + 1, np.int64)
    addresses = (array.ctypes.data for array in operand.arrays)
    own = (operand.dtype, operand.size, *addresses)
    count_entries(own, num_rows, window, starts, threads)
    found = np.empty(starts[-1], np.int64)
    values = np.empty(starts[-1], np.float32)
    list_entries(own, num_rows, window, starts, places.rows, places.columns, found, values, threads)
    return Entries(torch.from_numpy(found), torch.from_numpy(values), operand.scale)


@compiled
def count_entries(own: Any, num_rows: int, window: int, starts: Any, threads: int) -> None:
    """Set `starts [windows + 1]` to where each window's entries begin among all."""
    run_tasks(_count_window, len(starts) - 1, threads, (own, num_rows, window, starts))
    for at in range(1, len(starts)):
        starts[at] += starts[at - 1]


@compiled
def _count_window(task: int, own: Any, num_rows: int, window: int, starts: Any) -> None:
    first, past = _steps_of(task, own, num_rows, window)
    row, total = np.empty(LANES, np.float32), 0
    for at in range(first * own[1], past * own[1]):
        widen_row(own[5], own[0], at * LANES, row)
        for lane in range(LANES):
            total += row[lane] != 0
    starts[task + 1] = total


@compiled
def list_entries(
    own: Any,
    num_rows: int,
    window: int,
    starts: Any,
    row_places: Any,
    column_places: Any,
    found: Any,
    values: Any,
    threads: int,
) -> None:
    """Fill `found` and `values`, of every window from its place in `starts` on."""
    arguments = (own, num_rows, window, starts, row_places, column_places, found, values)
    run_tasks(_list_window, len(starts) - 1, threads, arguments)


@compiled
def _list_window(
    task: int,
    own: Any,
    num_rows: int,
    window: int,
    starts: Any,
    row_places: Any,
    column_places: Any,
    found: Any,
    values: Any,
) -> None:
    slices = (num_rows + LANES - 1) // LANES
    slice_starts = carray(pointer(own[2]), (slices + 1,), np.int32)
    lane_rows = carray(pointer(own[3]), (slices * LANES,), np.uint8)
    columns = carray(pointer(own[4]), (1,), np.uint16)
    row, lane_places = np.empty(LANES, np.float32), np.empty(LANES, np.int64)
    to, first_row = starts[task], task * window
    past_slice = (min(first_row + window, num_rows) + LANES - 1) // LANES
    for at in range(first_row // LANES, past_slice):
        for lane in range(LANES):
            lane_places[lane] = row_places[first_row + lane_rows[at * LANES + lane]]
        for step in range(slice_starts[at], slice_starts[at + 1]):
            for offset in range(own[1]):
                widen_row(own[5], own[0], (step * own[1] + offset) * LANES, row)
                for lane in range(LANES):
                    if row[lane] != 0:
                        column = columns[step * LANES + lane] + offset
                        found[to] = lane_places[lane] + column_places[column]
                        values[to] = row[lane]
                        to += 1


@compiled
def _steps_of(task: int, own: Any, num_rows: int, window: int) -> Any:
    """The first and the past step of a window's slices."""
    slices = (num_rows + LANES - 1) // LANES
    starts = carray(pointer(own[2]), (slices + 1,), np.int32)
    past = (min((task + 1) * window, num_rows) + LANES - 1) // LANES
    return starts[task * window // LANES], starts[past]

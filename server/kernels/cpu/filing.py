"""Loops that file the entries of a sparse delta by rows, as `operands.py` lays them out.

A cold adapter waits for it: an entry takes about 3 ns, as long as hashing it does.
"""

from typing import Any

import numpy as np

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import LANES

STRIDE = 8  # entries that are passed over at once


@compiled
def find_rows(flat: Any, width: int, firsts: Any) -> None:
    """Set `firsts [rows + 1]` to where each row of `width` columns begins in ascending `flat`."""
    at, past = 0, 0
    for row in range(len(firsts)):
        firsts[row] = at
        past += width
        while at + STRIDE <= len(flat) and flat[at + STRIDE - 1] < past:
            at += STRIDE
        while at < len(flat) and flat[at] < past:
            at += 1


@compiled
def sort_rows(counts: Any, size: int, rows: Any, longest: Any) -> None:
    """Order the rows of every window of `size` by `counts`, most first, equal ones as they come.

    `rows [slices * LANES]` takes them by their places in the window, the last one over again where
    no row is left; `longest [slices]` the most that a row of each slice has.
    """
    before = np.empty(counts.max() + 2, np.int64)
    for first in range(0, len(counts), size):
        own = counts[first : first + size]
        before[:] = 0
        for number in own:
            before[number] += 1
        total = 0
        for number in range(len(before) - 1, -1, -1):
            before[number], total = total, total + before[number]
        for row in range(len(own)):
            rows[first + before[own[row]]] = row
            before[own[row]] += 1
    rows[len(counts) :] = rows[len(counts) - 1]
    for at in range(len(longest)):
        place = at * LANES
        longest[at] = counts[place // size * size + rows[place]]


@compiled
def count(rows: Any, counts: Any) -> None:
    """Add to `counts` how often each row comes."""
    for row in rows:
        counts[row] += 1


@compiled
def file(rows: Any, columns: Any, runs: Any, places: Any, filed: Any, values: Any) -> None:
    """Put run i, a row of `runs [n, run]`, where its row of the delta is next.

    `filed [steps * LANES]` takes its column, `values`, a flat `[steps, run, LANES]`, its numbers.
    `places` are the next ones of the delta's rows in `filed`, and move on.
    """
    run = runs.shape[1]
    for i in range(len(rows)):
        place = places[rows[i]]
        places[rows[i]] = place + LANES
        filed[place] = columns[i]
        lane = place % LANES
        start = (place - lane) * run + lane
        for j in range(run):
            values[start + j * LANES] = runs[i, j]


@compiled
def file_rows(
    flat: Any,
    numbers: Any,
    width: int,
    firsts: Any,
    rows: Any,
    size: int,
    starts: Any,
    filed: Any,
    values: Any,
) -> None:
    """Lay out single entries, which `firsts` has by rows, in the order in which they come.

    Every number of `filed` and of `values` is set, those of padding to 0.
    """
    num_rows = len(firsts) - 1
    lanes = np.empty(len(rows), np.int64)
    for lane in range(len(rows)):  # backwards where a row comes again: its first lane counts
        at = len(rows) - 1 - lane
        lanes[at // size * size + rows[at]] = at
    for row in range(num_rows):
        at, base = lanes[row] // LANES, row * width
        place, past = starts[at] * LANES + lanes[row] % LANES, starts[at + 1] * LANES
        for i in range(firsts[row], firsts[row + 1]):
            filed[place] = flat[i] - base
            values[place] = numbers[i]
            place += LANES
        _fill_up(place, past, filed, values)
    for lane in range(num_rows, len(rows)):  # of nobody
        at = lane // LANES
        _fill_up(starts[at] * LANES + lane % LANES, starts[at + 1] * LANES, filed, values)


@compiled
def _fill_up(place: int, past: int, filed: Any, values: Any) -> None:
    """Padding of a lane, from `place` on."""
    for at in range(place, past, LANES):
        filed[at] = 0
        values[at] = 0

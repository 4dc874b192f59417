"""Loops that file the entries of a sparse delta by rows, as `operands.py` lays them out.

Laying out is most of what a cold adapter waits for: here an entry takes a few nanoseconds, less
than verifying a copy of the result on disk would.
"""

from typing import Any

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import LANES


@compiled
def split(flat: Any, width: int, rows: Any, columns: Any) -> None:
    """Rows and columns of ascending `flat` places in a matrix of `width` columns."""
    row, past = 0, width
    for i in range(len(flat)):
        while flat[i] >= past:
            row += 1
            past += width
        rows[i] = row
        columns[i] = flat[i] - (past - width)


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

"""Rows of a sparse delta sorted into slices of 32, and where each of their entries lies there.

Rows are sorted by length inside windows of 512, so that a slice's are alike. A slice has a body of
as many steps as pay: a row that is longer has its rest in a tail (`runs.py` says how both are
read). All numbers here are of runs; what a run is, the caller knows.
"""

import numpy as np
from numpy.typing import NDArray

LANES = 32
WINDOW_ROWS = 512
NO_ROW = 0xFFFF  # the place in its window of a lane without a row
SHORTEST_TAIL = 8  # steps that a tail takes at least: it is read a tile at a time

Numbers = NDArray[np.int64]


class Slices:
    """The slices of a matrix whose row r has `counts[r]` runs."""

    def __init__(self, counts: Numbers) -> None:
        self._counts = counts
        self._lane_rows = _sorted_by_window(counts)  # [slices * LANES], -1 for no row
        lengths = np.append(counts, 0)[self._lane_rows].reshape(-1, LANES)
        self._bodies = _best_bodies(lengths)
        rest = np.maximum(lengths - self._bodies[:, None], 0)
        self._tail_slices, self._tail_lanes = np.nonzero(rest)
        self._tail_steps = -(-rest[self._tail_slices, self._tail_lanes] // LANES)
        slice_tails = np.bincount(self._tail_slices, self._tail_steps, len(lengths))
        steps = self._bodies + slice_tails.astype(np.int64)
        self._firsts = np.concatenate([[0], steps.cumsum()])

    @property
    def num_steps(self) -> int:
        return int(self._firsts[-1])

    @property
    def num_bytes(self) -> int:
        """Bytes of `bounds`, `tails` and `rows`, which are not made for it."""
        return 12 * len(self._firsts) + 12 * len(self._tail_lanes) + 2 * len(self._lane_rows)

    @property
    def bounds(self) -> NDArray[np.int32]:
        """First step, past body and first tail of each slice, and of one past the last."""
        tails = np.searchsorted(self._tail_slices, np.arange(len(self._firsts)))
        past_bodies = self._firsts + np.append(self._bodies, 0)
        return np.stack([self._firsts, past_bodies, tails], axis=1).astype(np.int32)

    @property
    def tails(self) -> NDArray[np.int32]:
        """Lane, first step and past step of each tail."""
        firsts = self._tail_firsts()
        return np.stack([self._tail_lanes, firsts, firsts + self._tail_steps], 1).astype(np.int32)

    @property
    def rows(self) -> NDArray[np.uint16]:
        """Which row of its window each lane has."""
        of_window = np.where(self._lane_rows < 0, NO_ROW, self._lane_rows % WINDOW_ROWS)
        return of_window.astype(np.uint16)

    def places(self, rows: Numbers) -> Numbers:
        """Where each run lies, `step * LANES + lane`, of runs whose `rows` ascend."""
        starts = self._counts.cumsum() - self._counts
        number = np.arange(len(rows)) - starts[rows]  # of the run in its row
        at, tail_firsts = np.empty(len(self._counts), np.int64), np.zeros_like(self._counts)
        is_row = self._lane_rows >= 0
        at[self._lane_rows[is_row]] = np.flatnonzero(is_row)
        tail_rows = self._lane_rows[self._tail_slices * LANES + self._tail_lanes]
        tail_firsts[tail_rows] = self._tail_firsts()
        slices, lanes = at[rows] // LANES, at[rows] % LANES
        in_body = (self._firsts[slices] + number) * LANES + lanes
        in_tail = tail_firsts[rows] * LANES + number - self._bodies[slices]
        places: Numbers = np.where(number < self._bodies[slices], in_body, in_tail)
        return places

    def _tail_firsts(self) -> Numbers:
        before = np.cumsum(self._tail_steps) - self._tail_steps  # in tails of all slices
        of_slice = before[np.searchsorted(self._tail_slices, self._tail_slices)]
        past_bodies = (self._firsts[:-1] + self._bodies)[self._tail_slices]
        firsts: Numbers = past_bodies + before - of_slice
        return firsts


def _sorted_by_window(counts: Numbers) -> Numbers:
    """Rows window by window, the longest first, filled up to whole slices with -1."""
    windows = np.arange(len(counts)) // WINDOW_ROWS
    order = np.lexsort((-counts, windows))
    return np.append(order, np.full(-len(counts) % LANES, -1))


def _best_bodies(lengths: Numbers) -> Numbers:
    """Steps of each slice's body, whose rows have `lengths [slices, LANES]`, longest first.

    Of its rows' lengths that with which the slice takes the least time, of those the longest.
    """
    rest = lengths[:, None, :] - lengths[:, :, None]  # [slices, candidates, rows]
    tails = np.where(rest > 0, np.maximum(-(-rest // LANES), SHORTEST_TAIL), 0)
    best = (lengths + tails.sum(2)).argmin(1)
    bodies: Numbers = lengths[np.arange(len(lengths)), best]
    return bodies

"""The order in which the places of a layer are visited, and its cut into panels.

A *space* is a matrix of `rows` x `width` places, numbered row by row. Row-major space is the weight
itself. The space of a grid of tiles has one row per tile, so that equal tiles of block deltas
lie on top of each other, whatever the grid's row stride. Knows no values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store.adapter import BlockDelta, WeightDelta

# Ten bytes of running state for each stay in a core's cache, and calls for each panel cost little.
PLACES_PER_PANEL = 1 << 17


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows `first_row` to `last_row` (left out) of a space, and the places that they hold."""

    number: int  # counted from 0
    first_row: int
    last_row: int
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Space:
    """Places of a weight of `shape` (out, in), in tiles of `block` with `row_stride`."""

    shape: tuple[int, int]
    block: tuple[int, int]
    row_stride: int = 1

    @property
    def width(self) -> int:
        return self.block[0] * self.block[1]

    @property
    def rows(self) -> int:
        return self.shape[0] * self.shape[1] // self.width

    @property
    def row_major(self) -> bool:
        return self.block == (1, self.shape[1]) and self.row_stride == 1

    @property
    def geometry(self) -> NDArray[np.int64]:
        """What `loops.logical_place` needs: Br, Bc, tiles per row of tiles, row stride, out."""
        tiles_per_row = self.shape[1] // self.block[1]
        return np.array([*self.block, tiles_per_row, self.row_stride, self.shape[0]], np.int64)

    @property
    def index_dtype(self) -> type[np.int32] | type[np.int64]:
        """As `ElementDelta.indices` has it."""
        return np.int64 if self.shape[0] * self.shape[1] > 2**31 else np.int32

    @property
    def panels(self) -> list[Panel]:
        """All places, a few whole rows at a time."""
        step = max(1, PLACES_PER_PANEL // self.width)
        return [self._panel(row // step, row, step) for row in range(0, self.rows, step)]

    def _panel(self, number: int, row: int, step: int) -> Panel:
        last = min(row + step, self.rows)
        return Panel(number, row, last, row * self.width, (last - row) * self.width)


def row_major(shape: tuple[int, int]) -> Space:
    """The weight's own order: rows of `in` places."""
    return Space(shape, (1, shape[1]))


def own_grid(delta: BlockDelta) -> Space:
    """The grid that `delta` is tiles of."""
    return Space(delta.shape, delta.block, delta.row_stride)


def common_grid(deltas: Sequence[WeightDelta]) -> Space | None:
    """The grid that all of `deltas` are tiles of, if there is one."""
    grids = {own_grid(delta) if isinstance(delta, BlockDelta) else None for delta in deltas}
    return grids.pop() if len(grids) == 1 else None

"""The entries of one member's delta in a layer, panel by panel, as fp32 runs.

A member's value is what `WeightDelta.dense` says: scale * D, rounded to fp32. Sources widen and
scale the entries of one panel at a time and never build a whole dense matrix.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.adapter import (
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)
from adapters_store.canonical import round_to_fp32
from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import block_runs, product_rows
from adapters_store.merging.space import Panel, Space, own_grid


class Runs(NamedTuple):
    """Entries of a panel: run i is `values[i]` at the places from `starts[i]` on, ascending."""

    starts: NDArray[Any]  # [n] int32 or int64, places of the space
    values: NDArray[np.float32]  # [n, length]


class Source(Protocol):
    """One member's entries in a layer, in the order of a space."""

    def runs(self, panel: Panel) -> Runs:
        """The entries of the rows of `panel`."""


def source(delta: WeightDelta, space: Space) -> Source:
    """`delta` in the order of `space`, which is row-major or the delta's own grid."""
    return _SOURCES[type(delta)](delta, space)


def _fp32(values: Tensor, scale: float) -> NDArray[np.float32]:
    wide = values.float()
    return (wide if scale == 1 else wide * scale).contiguous().numpy()


def _slices(values: Tensor, scale: float) -> Callable[[int, int], NDArray[np.float32]]:
    """Gives some of `values`, scaled, in fp32; without a copy where they are that already."""
    if values.dtype != torch.float32 or scale != 1:
        return lambda low, high: _fp32(values[low:high], scale)
    ready = values.contiguous().numpy()
    return lambda low, high: ready[low:high]


def _bounds(ascending: NDArray[Any], firsts: Sequence[int]) -> list[int]:
    """Where the entries from each of `firsts` on begin, and the end of the last."""
    # Of the same dtype: otherwise NumPy converts all of `ascending`, every time.
    begins = ascending.searchsorted(np.array(firsts, ascending.dtype))
    return [*begins.tolist(), len(ascending)]


class ElementSource:
    """Sorted flat indices: a panel's entries are a slice."""

    def __init__(self, delta: ElementDelta, space: Space) -> None:
        self._indices = delta.indices.numpy()
        self._bounds = _bounds(self._indices, [panel.first for panel in space.panels])
        self._values = _slices(delta.values.view(-1, 1), delta.scale)

    def runs(self, panel: Panel) -> Runs:
        low, high = self._bounds[panel.number], self._bounds[panel.number + 1]
        return Runs(self._indices[low:high], self._values(low, high))


class TileSource:
    """Tiles in the space of their own grid: a panel's tiles are a slice, each tile one run."""

    def __init__(self, delta: BlockDelta, space: Space) -> None:
        self._tiles = delta.block_index.numpy()
        self._bounds = _bounds(self._tiles, [panel.first_row for panel in space.panels])
        self._values = _slices(delta.values.view(-1, space.width), delta.scale)
        self._width, self._dtype = space.width, space.index_dtype

    def runs(self, panel: Panel) -> Runs:
        low, high = self._bounds[panel.number], self._bounds[panel.number + 1]
        starts = self._tiles[low:high].astype(self._dtype) * self._width
        return Runs(starts, self._values(low, high))


class BlockSource:
    """Tiles in row-major order: every weight row crosses the tiles of one row of tiles."""

    def __init__(self, delta: BlockDelta, space: Space) -> None:
        grid = own_grid(delta)
        self._block_columns, self._dtype = delta.block[1], space.index_dtype
        self._geometry = grid.geometry
        self._per_row = delta.shape[1] // delta.block[1]
        self._tiles = delta.block_index.numpy()
        self._tile_rows = np.array(_bounds(self._tiles, range(0, grid.rows, self._per_row)))
        self._values = _fp32(delta.values, delta.scale)

    def runs(self, panel: Panel) -> Runs:
        most = (panel.last_row - panel.first_row) * self._per_row
        out = Runs(np.empty(most, self._dtype), np.empty((most, self._block_columns), np.float32))
        member = self._tiles, self._values, self._tile_rows, self._geometry
        count = compiled(block_runs)(*member, panel.first_row, *out)
        return Runs(out.starts[:count], out.values[:count])


class LowRankSource:
    """Every place of the weight; the product of a panel's rows, one run."""

    def __init__(self, delta: LowRankDelta, space: Space) -> None:
        self._b, self._a = _fp32(delta.b, 1), _fp32(delta.a, 1)
        self._scale, self._dtype = round_to_fp32(delta.scale), space.index_dtype
        self._sums = np.empty(delta.shape[1])

    def runs(self, panel: Panel) -> Runs:
        rows = self._b[panel.first_row : panel.last_row]
        values = np.empty((1, panel.size), np.float32)
        product = values.reshape(len(rows), -1)
        compiled(product_rows)(rows, self._a, self._scale, self._sums, product)
        return Runs(np.array([panel.first], self._dtype), values)


class DenseSource:
    """Every place of the weight, as one run."""

    def __init__(self, delta: DenseDelta, space: Space) -> None:
        self._delta, self._dtype = delta, space.index_dtype

    def runs(self, panel: Panel) -> Runs:
        rows = self._delta.delta[panel.first_row : panel.last_row]
        values = _fp32(rows, self._delta.scale)
        return Runs(np.array([panel.first], self._dtype), values.reshape(1, -1))


def _block(delta: BlockDelta, space: Space) -> Source:
    return BlockSource(delta, space) if space.row_major else TileSource(delta, space)


_SOURCES: dict[type[WeightDelta], Callable[[Any, Space], Source]] = {
    ElementDelta: ElementSource,
    BlockDelta: _block,
    LowRankDelta: LowRankSource,
    DenseDelta: DenseSource,
}

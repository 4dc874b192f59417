"""Which form fits a set of changed entries: tiles, runs, or single entries.

A form fits where it holds exactly the entries that are there, so that no form changes a mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import BlockDelta, ElementDelta, WeightDelta
from adapters_store.delta_rules import INT32_ENTRIES

SIDE = 16
Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of `block` entries, in the rows as they are or in mttl's order of stride `row_stride`.

    mttl cuts `W [out, in]` as if it were `[in, out]`: where out is s * in, its 16 x 16 blocks are
    16 rows at stride s. See BlockDelta.
    """

    block: Shape
    row_stride: int = 1

    def __str__(self) -> str:
        stride = f", row stride {self.row_stride}" if self.row_stride > 1 else ""
        return f"{self.block[0]} x {self.block[1]} tiles{stride}"

    def divides(self, shape: Shape) -> bool:
        rows, columns = self.block
        return shape[0] % (self.row_stride * rows) == 0 and shape[1] % columns == 0

    def places(self, flat: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """Of each flat index: the tile that it lies in, and its place in that tile."""
        row, column = flat // shape[1], flat % shape[1]
        row = (row % self.row_stride) * (shape[0] // self.row_stride) + row // self.row_stride
        rows, columns = self.block
        tile = (row // rows) * (shape[1] // columns) + column // columns
        return tile, (row % rows) * columns + column % columns


def tilings(shape: Shape) -> tuple[Tiling, ...]:
    """The tilings to try, largest tiles first."""
    stride = shape[0] // shape[1] if shape[0] % shape[1] == 0 else 1
    candidates = [Tiling((SIDE, SIDE), stride), Tiling((SIDE, SIDE)), Tiling((1, SIDE))]
    return tuple(tiling for tiling in dict.fromkeys(candidates) if tiling.divides(shape))


def fitting_delta(
    layer: str, shape: Shape, flat: Tensor, values: Tensor
) -> tuple[WeightDelta, str]:
    """The delta of sorted, unique, row-major `flat` (int64) and its values, and why this form."""
    partly: list[str] = []
    for tiling in tilings(shape):
        tile, within = tiling.places(flat, shape)
        order = (tile * tiling.block[0] * tiling.block[1] + within).argsort()
        index, counts = tile[order].unique_consecutive(return_counts=True)
        filled = int((counts == tiling.block[0] * tiling.block[1]).sum())
        if filled == len(index):
            tiles = values[order].view(-1, *tiling.block)
            delta = tile_delta(layer, shape, tiling.block, index, tiles, tiling.row_stride)
            return delta, f"{tiling}: all {filled} are full"
        partly.append(f"{tiling}: {filled} of {len(index)} are full")
    return element_delta(layer, shape, flat, values), "; ".join(partly) or "no tiling divides it"


def element_delta(layer: str, shape: Shape, flat: Tensor, values: Tensor) -> ElementDelta:
    """Single entries, their indices in the width that the format wants."""
    is_large = shape[0] * shape[1] > INT32_ENTRIES
    indices = flat if is_large else flat.to(torch.int32)
    return ElementDelta(layer=layer, shape=shape, indices=indices, values=values)


def tile_delta(
    layer: str, shape: Shape, block: Shape, index: Tensor, values: Tensor, row_stride: int = 1
) -> BlockDelta:
    """Tiles by ascending ids."""
    return BlockDelta(
        layer=layer,
        shape=shape,
        block=block,
        block_index=index.to(torch.int32),
        values=values,
        row_stride=row_stride,
    )

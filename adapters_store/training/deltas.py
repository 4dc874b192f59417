"""Trainable deltas of one linear layer, dense and sparse, and the linear layer that holds one.

Knows no layer names, no scores and no schedule. Places are tile ids everywhere (`tiles`): a
single entry is a tile of (1, 1), and its id is its flat, row-major index.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.training.products import (
    Entries,
    Tiles,
    entries_at,
    entry_product,
    tile_product,
    tiles_at,
)

Block = tuple[int, int]
ELEMENT: Block = (1, 1)


class DenseDelta(nn.Module):
    """`D = weight * mask`, all of it trainable; no mask is a mask of ones."""

    mask: Tensor | None

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)  # [out, in]
        self.register_buffer("mask", None, persistent=False)  # [out, in] bool

    @property
    def num_bytes(self) -> int:
        """Bytes of the parameter and what says where it counts, without the gradient."""
        return self.weight.nbytes + (0 if self.mask is None else self.mask.nbytes)

    @torch.no_grad()
    def fill(self, weight: Tensor) -> None:
        """Take over `weight [out, in]`."""
        self.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., in] -> D x [..., out]`, in the delta's dtype."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return F.linear(x.to(weight.dtype), weight)


class SparseDelta(nn.Module):
    """The selected values alone: `values` `[nnz]`, or `[n, Br, Bc]` for tiles."""

    pattern: Entries | Tiles

    def __init__(self, values: Tensor, tiles: Tensor, shape: tuple[int, int], block: Block) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.block = block
        is_element = block == ELEMENT
        self.pattern = entries_at(tiles, shape) if is_element else tiles_at(tiles, shape, block)

    @property
    def tiles(self) -> Tensor:
        """Tile ids, int64, sorted, unique."""
        return self.pattern.tiles()

    @property
    def num_bytes(self) -> int:
        """Bytes of the parameter and what says where it counts, without the gradient."""
        return self.values.nbytes + self.pattern.num_bytes

    @torch.no_grad()
    def fill(self, weight: Tensor) -> None:
        """Take over what `weight [out, in]` has at the tiles."""
        self.values.copy_(take_tiles(weight.to(self.values.device), self.tiles, self.block))

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., in] -> D x [..., out]`, in the delta's dtype."""
        flat = x.reshape(-1, x.shape[-1])
        if isinstance(self.pattern, Entries):
            y = entry_product(flat, self.values, self.pattern)
        else:
            y = tile_product(flat, self.values, self.pattern)
        return y.view(*x.shape[:-1], y.shape[-1])


class DeltaLinear(nn.Module):
    """A frozen linear layer and its delta: `y = base(x) + D x`, rounded once to `x`'s dtype.

    Without a delta (not begun, or a dropped layer) it is the base.
    """

    delta: DenseDelta | SparseDelta | None

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.delta = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.out_features, self.base.in_features

    @property
    def delta_dtype(self) -> torch.dtype:
        """The dtype of a delta: fp32 over a bf16, f16 or fp32 base (fp64 over fp64)."""
        return torch.promote_types(self.base.weight.dtype, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y if self.delta is None else (y + self.delta(x)).to(y.dtype)


def take_tiles(weight: Tensor, tiles: Tensor, block: Block) -> Tensor:
    """The values of `weight [out, in]` at `tiles`: `[nnz]`, or `[n, Br, Bc]`, as `SparseDelta`."""
    if block == ELEMENT:
        return weight.reshape(-1)[tiles]
    per_row = weight.shape[1] // block[1]
    return _tiled(weight, block)[tiles // per_row, :, tiles % per_row]


def mark_tiles(mask: Tensor, tiles: Tensor, block: Block) -> None:
    """Set `mask [out, in]`, which is contiguous, at every entry of `tiles`."""
    per_row = mask.shape[1] // block[1]
    _tiled(mask, block)[tiles // per_row, :, tiles % per_row] = True


def _tiled(weight: Tensor, block: Block) -> Tensor:
    """A view `[out / Br, Br, in / Bc, Bc]`."""
    return weight.view(weight.shape[0] // block[0], block[0], -1, block[1])

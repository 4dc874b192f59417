"""The overlap average as one would write it in torch: dense sums and counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters_store.adapter import BlockDelta, ElementDelta, WeightDelta


def scatter_add(deltas: Sequence[WeightDelta], dtype: torch.dtype) -> Tensor:
    """Dense fp32 `[out, in]`, summed up in `dtype`, entry by entry."""
    out, columns = deltas[0].shape
    sums, counts = torch.zeros(out * columns, dtype=dtype), torch.zeros(out * columns, dtype=dtype)
    for delta in deltas:
        places, values = _entries(delta)
        wide = values.to(dtype)
        sums.scatter_add_(0, places, wide)
        counts.scatter_add_(0, places, torch.ones_like(wide))
    return (sums / counts.clamp_(min=1)).float().view(out, columns)


def _entries(delta: WeightDelta) -> tuple[Tensor, Tensor]:
    """The flat places, as torch's scatter wants them, and their values."""
    if isinstance(delta, BlockDelta):
        rows = delta.rows()[:, :, None] * delta.shape[1]
        return (rows + delta.columns()[:, None, :]).flatten(), delta.values.flatten()
    assert isinstance(delta, ElementDelta)
    return delta.indices.long(), delta.values


def add_tiles(deltas: Sequence[BlockDelta], dtype: torch.dtype) -> Tensor:
    """The same for tiles of one grid, which torch can add whole: a count for each is enough."""
    (out, columns), (rows, width) = deltas[0].shape, deltas[0].block
    tiles = (out // rows) * (columns // width)
    sums, counts = torch.zeros(tiles, rows * width, dtype=dtype), torch.zeros(tiles, 1, dtype=dtype)
    for delta in deltas:
        values = delta.values.view(-1, rows * width).to(dtype)
        sums.index_add_(0, delta.block_index, values)
        counts.index_add_(0, delta.block_index, torch.ones(len(values), 1, dtype=dtype))
    tiled = (sums / counts.clamp_(min=1)).float().view(out // rows, columns // width, rows, width)
    return tiled.transpose(1, 2).reshape(out, columns)

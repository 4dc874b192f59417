"""Deltas laid out for plain torch: what one operand holds, and its product with activations.

`product(x)` is `scale * (D @ x)` in fp32 for `x [n, in]` fp32. Values stay in the dtype of their
file and are widened when multiplied.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)
from adapters_store.canonical import round_to_fp32

GATHERED_VALUES_PER_CHUNK = 1 << 24  # bound on the gathered activations, 64 MiB in fp32


class ReferenceOperand(Protocol):
    """One laid-out delta."""

    @property
    def num_bytes(self) -> int: ...

    def product(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class ElementOperand:
    """Entries by row of the weight: those of row r are `starts[r]:starts[r + 1]`."""

    starts: Tensor  # [out + 1] int32
    columns: Tensor  # [nnz] int32
    values: Tensor  # [nnz]
    scale: float

    @property
    def num_bytes(self) -> int:
        return self.starts.nbytes + self.columns.nbytes + self.values.nbytes

    def product(self, x: Tensor) -> Tensor:
        return self.scale * _bag_sums(x.T, self.columns, self.starts, self.values.float()).T


@dataclass(frozen=True, slots=True, eq=False)
class BlockOperand:
    """Tiles `[n, Br, Bc]`. A tile row's product belongs to a row of the weight: `order` lists the
    tile rows by weight row, those of row r at `starts[r]:starts[r + 1]`."""

    columns: Tensor  # [n, Bc] int32
    values: Tensor  # [n, Br, Bc]
    starts: Tensor  # [out + 1] int32
    order: Tensor  # [n * Br] int32
    scale: float

    @property
    def num_bytes(self) -> int:
        parts = (self.columns, self.values, self.starts, self.order)
        return sum(part.nbytes for part in parts)

    def product(self, x: Tensor) -> Tensor:
        gathered_per_token = max(1, self.columns.numel(), self.order.numel())
        tokens_per_chunk = max(1, GATHERED_VALUES_PER_CHUNK // gathered_per_token)
        return torch.cat([self._chunk_product(chunk) for chunk in x.split(tokens_per_chunk)])

    def _chunk_product(self, x: Tensor) -> Tensor:
        tile_rows = torch.bmm(self.values.float(), x.T[self.columns]).flatten(0, 1)
        return self.scale * _bag_sums(tile_rows, self.order, self.starts, None).T


@dataclass(frozen=True, slots=True, eq=False)
class LowRankOperand:
    a: Tensor  # [r, in]
    b: Tensor  # [out, r]
    scale: float

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def product(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(x, self.a.float()), self.b.float())


@dataclass(frozen=True, slots=True, eq=False)
class DenseOperand:
    delta: Tensor  # [out, in]
    scale: float

    @property
    def num_bytes(self) -> int:
        return self.delta.nbytes

    def product(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(x, self.delta.float())


@dataclass(frozen=True, slots=True, eq=False)
class BiasOperand:
    """The same for every activation."""

    bias: Tensor  # [out]
    scale: float

    @property
    def num_bytes(self) -> int:
        return self.bias.nbytes

    def product(self, x: Tensor) -> Tensor:
        return (self.scale * self.bias.float()).expand(len(x), -1)


def lay_out(delta: WeightDelta, device: torch.device) -> ReferenceOperand:
    """The operand of `delta`, on `device`."""
    scale = round_to_fp32(delta.scale)
    match delta:
        case ElementDelta():
            return _element_operand(delta, scale, device)
        case BlockDelta():
            return _block_operand(delta, scale, device)
        case LowRankDelta():
            return LowRankOperand(delta.a.to(device), delta.b.to(device), scale)
        case DenseDelta():
            return DenseOperand(delta.delta.to(device), scale)
        case BiasDelta():
            return BiasOperand(delta.bias.to(device), scale)
    raise AssertionError(f"unknown kind of delta: {delta.kind}")


def _element_operand(delta: ElementDelta, scale: float, device: torch.device) -> ElementOperand:
    num_rows, num_columns = delta.shape
    rows, columns = delta.indices // num_columns, delta.indices % num_columns
    return ElementOperand(
        starts=_starts(rows, num_rows).to(device),
        columns=columns.int().to(device),
        values=delta.values.to(device),
        scale=scale,
    )


def _block_operand(delta: BlockDelta, scale: float, device: torch.device) -> BlockOperand:
    rows, order = delta.rows().flatten().sort(stable=True)
    return BlockOperand(
        columns=delta.columns().int().to(device),
        values=delta.values.to(device),
        starts=_starts(rows, delta.shape[0]).to(device),
        order=order.int().to(device),
        scale=scale,
    )


def _starts(rows: Tensor, num_rows: int) -> Tensor:
    """Where each row's entries start among the sorted `rows`, and where the last ends."""
    return torch.searchsorted(rows, torch.arange(num_rows + 1, dtype=rows.dtype), out_int32=True)


def _bag_sums(table: Tensor, items: Tensor, starts: Tensor, weights: Tensor | None) -> Tensor:
    """Row r is the sum of `table[items[starts[r]:starts[r + 1]]]`, weighted: a sparse product.

    An embedding bag is that sum, in fixed order and without the gathered copy; ten times faster
    on CPU than gathering and scattering.
    """
    return F.embedding_bag(
        items,
        table.contiguous(),
        starts,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )

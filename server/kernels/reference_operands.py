"""Deltas laid out for plain torch: what one operand holds, and its product with activations.

`product(x)` is `scale * (D @ x)`, `[n, out]` in fp32, for `x [n, in]` in fp32. Values stay in the
dtype of their file and are widened when multiplied. A block is its entries here: one index per
value is memory that a faster implementation saves.
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
from server.kernels.interface import Entries


class ReferenceOperand(Protocol):
    """One laid-out delta."""

    @property
    def num_bytes(self) -> int: ...

    def product(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class EntriesOperand:
    """Single entries, by row of the weight: those of row r are `starts[r]:starts[r + 1]`."""

    starts: Tensor  # [out + 1] int32
    columns: Tensor  # [nnz] int32
    values: Tensor  # [nnz]
    scale: float

    @property
    def num_bytes(self) -> int:
        return self.starts.nbytes + self.columns.nbytes + self.values.nbytes

    def product(self, x: Tensor) -> Tensor:
        # A bag of an embedding bag is a weighted sum of rows of a table, so one bag per row of the
        # weight is the sparse product: in fixed order, and without a copy of the gathered rows.
        sums = F.embedding_bag(
            self.columns,
            x.T.contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=self.values.float(),
            include_last_offset=True,
        )
        return self.scale * sums.T

    def entries(self, num_columns: int) -> Entries:
        """What this changes in a weight of so many columns."""
        counts = self.starts.diff()
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        return Entries(rows * num_columns + self.columns, self.values.float(), self.scale)


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


def laid_out_bytes(delta: WeightDelta) -> int:
    """Bytes of `lay_out(delta)`: every value, and for single entries where each one is."""
    match delta:
        case ElementDelta() | BlockDelta():
            starts, columns = delta.shape[0] + 1, delta.values.numel()
            return torch.int32.itemsize * (starts + columns) + delta.values.nbytes
    return delta.num_bytes


def lay_out(delta: WeightDelta, device: torch.device) -> ReferenceOperand:
    """The operand of `delta`, on `device`."""
    scale = round_to_fp32(delta.scale)
    match delta:
        case ElementDelta():
            rows, columns = delta.indices // delta.shape[1], delta.indices % delta.shape[1]
            return _entries(delta, rows, columns, delta.values, device)  # sorted by row as it is
        case BlockDelta():
            shape = delta.values.shape
            rows = delta.rows()[:, :, None].expand(shape).flatten()
            columns = delta.columns()[:, None, :].expand(shape).flatten()
            rows, order = rows.sort(stable=True)
            return _entries(delta, rows, columns[order], delta.values.flatten()[order], device)
        case LowRankDelta():
            return LowRankOperand(delta.a.to(device), delta.b.to(device), scale)
        case DenseDelta():
            return DenseOperand(delta.delta.to(device), scale)
        case BiasDelta():
            return BiasOperand(delta.bias.to(device), scale)
    raise AssertionError(f"unknown kind of delta: {delta.kind}")


def _entries(
    delta: WeightDelta, rows: Tensor, columns: Tensor, values: Tensor, device: torch.device
) -> EntriesOperand:
    """The operand of entries at (row, column), by ascending row."""
    starts = torch.searchsorted(rows, torch.arange(delta.shape[0] + 1, dtype=rows.dtype))
    return EntriesOperand(
        starts=starts.int().to(device),
        columns=columns.int().to(device),
        values=values.to(device),
        scale=round_to_fp32(delta.scale),
    )

"""Products with a sparse delta and their gradients, without any dense `[out, in]` matrix.

Two autograd functions: single entries and tiles. The gradient of the values is computed at the
selected places only. They know no layers and no optimizer.

Symbols: T rows of x, nnz entries, n tiles of (Br, Bc).
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional as F

NUMBERS_PER_CHUNK = 1 << 20  # of gathered tiles of x or of the output's gradient


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Single entries of `[out, in]`, by rows and by columns, int32."""

    shape: tuple[int, int]
    row_start: Tensor  # [out + 1]
    columns: Tensor  # [nnz], by rows
    column_start: Tensor  # [in + 1]
    rows: Tensor  # [nnz], by columns
    order: Tensor  # [nnz]: the place by rows of each entry by columns

    @property
    def num_bytes(self) -> int:
        parts = (self.row_start, self.columns, self.column_start, self.rows, self.order)
        return sum(part.nbytes for part in parts)

    def tiles(self) -> Tensor:
        """Flat, row-major places, int64, sorted."""
        counts = self.row_start.long().diff()
        rows = torch.arange(self.shape[0], device=counts.device).repeat_interleave(counts)
        return rows * self.shape[1] + self.columns


def entries_at(flat: Tensor, shape: tuple[int, int]) -> Entries:
    """The entries at `flat`: row-major places, sorted, unique."""
    rows, columns = flat // shape[1], flat % shape[1]
    order = columns.argsort(stable=True)
    return Entries(
        shape,
        _starts(rows, shape[0]),
        columns.to(torch.int32),
        _starts(columns, shape[1]),
        rows[order].to(torch.int32),
        order.to(torch.int32),
    )


def _starts(groups: Tensor, count: int) -> Tensor:
    ends = torch.bincount(groups, minlength=count).cumsum(0)
    return F.pad(ends, (1, 0)).to(torch.int32)


class _EntryProduct(Function):
    """`x [T, in], values [nnz] -> [T, out]`, in the dtype of the values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.entries = entries
        by_feature = x.to(values.dtype).t().contiguous()  # [in, T]
        return _bags(entries.columns, entries.row_start, values, by_feature).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, values), entries = ctx.saved_tensors, ctx.entries
        gradient = gradients[0].to(values.dtype).t().contiguous()  # [out, T]
        of_x = of_values = None
        if ctx.needs_input_grad[0]:
            by_column = values.index_select(0, entries.order)
            of_x = _bags(entries.rows, entries.column_start, by_column, gradient).t().to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_values = _sampled(entries, values, gradient, x.to(values.dtype))
        return of_x, of_values, None


def _bags(places: Tensor, starts: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    """Weighted sums of rows of `table`: row i from the places `starts[i] : starts[i + 1]`."""
    return F.embedding_bag(
        places, table, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _sampled(entries: Entries, values: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`left [out, T] @ right [T, in]` at the entries alone, `[nnz]`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        # With beta 0 the pattern's own numbers do not count: any of the right length do.
        pattern = torch.sparse_csr_tensor(
            entries.row_start, entries.columns, values, entries.shape, check_invariants=False
        )
        product: Tensor = torch.sparse.sampled_addmm(pattern, left, right, beta=0.0)
    return product.values()


def entry_product(x: Tensor, values: Tensor, entries: Entries) -> Tensor:
    """`D x` and, for autograd, its gradients: `x [T, in], values [nnz] -> [T, out]`."""
    product: Tensor = _EntryProduct.apply(x, values, entries)  # type: ignore[no-untyped-call]
    return product


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Tiles of `[out, in]`: tile row and tile column of each, int64 `[n]`."""

    shape: tuple[int, int]
    block: tuple[int, int]  # (Br, Bc)
    rows: Tensor
    columns: Tensor

    @property
    def num_bytes(self) -> int:
        return self.rows.nbytes + self.columns.nbytes

    def tiles(self) -> Tensor:
        """Tile ids, int64, sorted."""
        return self.rows * (self.shape[1] // self.block[1]) + self.columns


def tiles_at(index: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Tiles:
    """The tiles `index`: tile_row * (in // Bc) + tile_col, sorted, unique."""
    per_row = shape[1] // block[1]
    return Tiles(shape, block, index // per_row, index % per_row)


class _TileProduct(Function):
    """`x [T, in], values [n, Br, Bc] -> [T, out]`, in the dtype of the values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, tiles: Tiles) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.tiles = tiles
        panels = _panels(x.to(values.dtype), tiles.block[1])
        return _scattered(values, panels, tiles.columns, tiles.rows, tiles.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, values), tiles = ctx.saved_tensors, ctx.tiles
        panels = _panels(gradients[0].to(values.dtype), tiles.block[0])
        of_x = of_values = None
        if ctx.needs_input_grad[0]:
            turned = values.transpose(1, 2)
            of_x = _scattered(turned, panels, tiles.rows, tiles.columns, tiles.shape[1]).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_values = _outer(panels, _panels(x.to(values.dtype), tiles.block[1]), tiles)
        return of_x, of_values, None


def tile_product(x: Tensor, values: Tensor, tiles: Tiles) -> Tensor:
    """`D x` and, for autograd, its gradients: `x [T, in], values [n, Br, Bc] -> [T, out]`."""
    product: Tensor = _TileProduct.apply(x, values, tiles)  # type: ignore[no-untyped-call]
    return product


def _panels(x: Tensor, width: int) -> Tensor:
    """`[T, features]` as `[features / width, width, T]`."""
    return x.t().contiguous().view(-1, width, x.shape[0])


def _tiles_per_chunk(panels: Tensor) -> int:
    return max(1, NUMBERS_PER_CHUNK // (panels.shape[1] * panels.shape[2]))


def _scattered(values: Tensor, panels: Tensor, taken: Tensor, put: Tensor, features: int) -> Tensor:
    """Each tile times the panel it takes, added to the panel where it puts: `[T, features]`."""
    height, num_rows = values.shape[1], panels.shape[2]
    result = panels.new_zeros(features // height, height, num_rows)
    step = _tiles_per_chunk(panels)
    for part, source, target in zip(
        values.split(step), taken.split(step), put.split(step), strict=True
    ):
        result.index_add_(0, target, torch.bmm(part, panels[source]))
    return result.view(features, num_rows).t()


def _outer(gradient: Tensor, x: Tensor, tiles: Tiles) -> Tensor:
    """The gradient of every tile, `[n, Br, Bc]`."""
    step = _tiles_per_chunk(x)
    pairs = zip(tiles.rows.split(step), tiles.columns.split(step), strict=True)
    return torch.cat([torch.bmm(gradient[r], x[c].transpose(1, 2)) for r, c in pairs])

"""Deltas laid out for the kernels of this folder, and the parts of a product with one.

An operand is arrays in device memory. Values stay in the dtype of their file. Each of its *parts*
is what one kernel does of a product: numbers by which the kernel finds the arrays (`table.py`).
Knows no batch and launches nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
from server.kernels.gpu.slices import LANES, Numbers, Slices
from server.kernels.gpu.table import FIRST, PART_NUMBERS, ROWS, SCALE, SIZE, WIDTH

MOST_COLUMNS = 1 << 16  # that a column's two bytes can tell apart
EDGE = 16  # of a block that is multiplied whole; a run is one row of it


Place = Callable[[Tensor], Tensor]  # a contiguous copy in device memory, aligned to 16 bytes


class Work(Enum):
    """What a part's kernel multiplies, in the order in which a batch's parts are multiplied.

    A low-rank delta's A comes before its B, which multiplies what A leaves.
    """

    ENTRIES = "entries"
    RUNS = "runs"
    TILES = "tiles"
    LOW_RANK_A = "low_rank_a"
    LOW_RANK_B = "low_rank_b"
    DENSE = "dense"
    BIAS = "bias"


class Kind(NamedTuple):
    """Which kernel multiplies a part."""

    work: Work
    dtype: torch.dtype  # of the values


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one kernel does of a product."""

    kind: Kind
    row: NDArray[np.int64]  # of a layer's parts

    @property
    def work(self) -> Work:
        return self.kind.work


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class GpuOperand:
    """A laid-out delta; the last of its parts makes the product, each other one what it needs."""

    arrays: tuple[Tensor, ...]  # in device memory, where the parts have their addresses
    parts: tuple[Part, ...]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def can_lay_out(delta: WeightDelta) -> bool:
    """Whether there is a layout of this folder for `delta`."""
    return not isinstance(delta, ElementDelta | BlockDelta) or delta.shape[1] <= MOST_COLUMNS


def laid_out_bytes(delta: WeightDelta) -> int:
    """Bytes of `lay_out(delta)`, which is not made for it."""
    match delta:
        case BlockDelta(block=(16, 16)):
            return 4 * (delta.shape[0] // EDGE + 1) + 2 * len(delta.values) + delta.values.nbytes
        case ElementDelta() | BlockDelta():
            rows, _, run = _run_places(delta)
            slices = Slices(np.bincount(rows, minlength=delta.shape[0]))
            step_bytes = LANES * (2 + run * delta.values.element_size())
            return slices.num_bytes + slices.num_steps * step_bytes
    return delta.num_bytes


def lay_out(delta: WeightDelta, place: Place) -> GpuOperand:
    """The operand of a delta that `can_lay_out`, where `place` puts its arrays."""
    match delta:
        case BlockDelta(block=(16, 16)):
            arrays = _tiles(delta)
            return _operand(Work.TILES, delta, delta.values.dtype, arrays, place, delta.row_stride)
        case ElementDelta() | BlockDelta():
            arrays, run = _slices(delta)
            work = Work.ENTRIES if run == 1 else Work.RUNS
            return _operand(work, delta, delta.values.dtype, arrays, place)
        case LowRankDelta():
            return _low_rank(delta, place)
        case DenseDelta():
            return _operand(Work.DENSE, delta, delta.delta.dtype, (delta.delta,), place)
        case BiasDelta():
            return _operand(Work.BIAS, delta, delta.bias.dtype, (delta.bias,), place)
    raise AssertionError(f"no layout for {delta.kind}")


def _operand(
    work: Work,
    delta: WeightDelta,
    dtype: torch.dtype,
    arrays: tuple[Tensor, ...],
    place: Place,
    size: int = 0,
) -> GpuOperand:
    placed = tuple(map(place, arrays))
    return GpuOperand(placed, (_part(work, dtype, delta.shape, delta.scale, placed, size),))


def _low_rank(delta: LowRankDelta, place: Place) -> GpuOperand:
    (out, width), rank = delta.shape, len(delta.a)
    a, b = placed = place(delta.a), place(delta.b)
    first = _part(Work.LOW_RANK_A, a.dtype, (rank, width), 1.0, (a,))
    second = _part(Work.LOW_RANK_B, b.dtype, (out, rank), delta.scale, (b,))
    return GpuOperand(placed, (first, second))


def _part(
    work: Work,
    dtype: torch.dtype,
    shape: tuple[int, int],
    scale: float,
    arrays: tuple[Tensor, ...],
    size: int = 0,
) -> Part:
    row = np.zeros(PART_NUMBERS, np.int64)
    row[ROWS], row[WIDTH], row[SIZE] = *shape, size
    row[SCALE] = np.float32(round_to_fp32(scale)).view(np.int32)
    row[FIRST : FIRST + len(arrays)] = [array.data_ptr() for array in arrays]
    return Part(Kind(work, dtype), row)


def _tiles(delta: BlockDelta) -> tuple[Tensor, ...]:
    """Starts of the tile rows, column of each tile in tiles, values `[n, 16, 16]`."""
    tile_rows, tile_columns = np.divmod(delta.block_index.numpy(), delta.shape[1] // EDGE)
    starts = np.searchsorted(tile_rows, np.arange(delta.shape[0] // EDGE + 1)).astype(np.int32)
    columns = tile_columns.astype(np.uint16)
    return torch.from_numpy(starts), torch.from_numpy(columns), delta.values


def _run_places(delta: ElementDelta | BlockDelta) -> tuple[Numbers, Numbers, int]:
    """Row and first column of every run, in the order of the values; the columns of a run."""
    if isinstance(delta, ElementDelta):
        rows, columns = np.divmod(delta.indices.numpy(), delta.shape[1])
        return rows, columns, 1
    rows, columns = delta.rows().numpy()[:, :, None], delta.columns().numpy()[:, None, :]
    run = EDGE if delta.block[1] == EDGE else 1
    columns = columns[:, :, ::run]
    shape = np.broadcast_shapes(rows.shape, columns.shape)
    return np.broadcast_to(rows, shape).ravel(), np.broadcast_to(columns, shape).ravel(), run


def _slices(delta: ElementDelta | BlockDelta) -> tuple[tuple[Tensor, ...], int]:
    """Bounds, tails and rows of the slices, columns `[steps, 32]`, values `[steps, 32, run]`."""
    rows, columns, run = _run_places(delta)
    order = np.argsort(rows, kind="stable")
    slices = Slices(np.bincount(rows, minlength=delta.shape[0]))
    places = slices.places(rows[order])
    placed = np.zeros(slices.num_steps * LANES, np.uint16)
    placed[places] = columns[order]
    values = delta.values.new_zeros(len(placed), run)
    values[torch.from_numpy(places)] = delta.values.reshape(-1, run)[torch.from_numpy(order)]
    found = (slices.bounds, slices.tails, slices.rows, placed)
    return (*(torch.from_numpy(array) for array in found), values), run

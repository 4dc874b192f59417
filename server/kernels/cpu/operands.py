"""Deltas laid out for `deltas.py`: windows of rows, slices of rows, runs of columns.

The rows of a weight fall into windows of nearly equal size, the same for every delta of that
weight: what is added to the rows of one window is one thread's work. Within a window the rows of a
sparse delta are sorted by their number of entries, and each `LANES` of them are a slice: as many
steps as the longest has, in which shorter rows have zeros. Values stay in the dtype of their file.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from adapters_store.canonical import round_to_fp32
from server.kernels.cpu import filing
from server.kernels.cpu.pointers import BF16, FP16, FP32
from server.kernels.cpu.runs import CHAINS
from server.kernels.cpu.vectors import LANES

WINDOW_ROWS = 256  # at most
MOST_COLUMNS = 1 << 16  # that a column's two bytes can tell apart
RUNS, TILES, LOW_RANK, BIAS = range(4)  # kinds of descriptor
# Columns of the table that loops read: a row is an operand of a step.
SEGMENT, KIND, DTYPE, SIZE, FIRST, SECOND, THIRD, FOURTH, INNER, NUM_COLUMNS = range(10)
STORED_AS = {4: torch.float32, 2: torch.uint16}  # by bytes of a number
CODES = {torch.float32: FP32, torch.bfloat16: BF16, torch.float16: FP16}

Numbers = NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledOperand:
    """A laid-out delta; what its arrays are depends on its kind.

    Of `RUNS`, runs of `size` columns (a single entry is a run of one): the slices' starts in steps,
    int32 `[slices + 1]`; rows within the window, uint8 `[slices * LANES]`; first columns, uint16
    `[steps * LANES]`; values `[steps, size, LANES]`. `TILES` are runs of `CHAINS` or a multiple
    where the rows of a slice have the same columns at every step.
    Of `LOW_RANK`, `size` being the rank: A `[rank, in]`, B's columns `[rank, out]`.
    Of `BIAS`, `size` 1: the bias `[out]`.
    """

    kind: int
    dtype: int  # of the values
    size: int
    arrays: tuple[Numbers, ...]
    scale: float
    descriptor: NDArray[np.int64] = field(init=False)  # a row of the loops' table, with addresses

    def __post_init__(self) -> None:
        addresses = [array.ctypes.data for array in self.arrays]
        row = np.zeros(NUM_COLUMNS, np.int64)
        row[KIND : FIRST + len(addresses)] = (self.kind, self.dtype, self.size, *addresses)
        object.__setattr__(self, "descriptor", row)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def window_rows(num_rows: int) -> int:
    """Rows of every window but perhaps the last, of a weight of `num_rows`."""
    windows = -(-num_rows // WINDOW_ROWS)
    return -(-num_rows // (windows * LANES)) * LANES


def can_compile(delta: WeightDelta) -> bool:
    """Whether there is a compiled layout for `delta`."""
    match delta:
        case ElementDelta() | BlockDelta():
            return delta.shape[1] <= MOST_COLUMNS
        case LowRankDelta():
            return delta.a.dtype == delta.b.dtype
    return isinstance(delta, BiasDelta)


def compiled_bytes(delta: WeightDelta) -> int:
    """Bytes of `compile_delta(delta)`, which is not made for it."""
    match delta:
        case ElementDelta() | BlockDelta():
            rows, _, run = _run_places(delta)
            order = _Order(rows, delta.shape[0])
            steps = int(order.starts[-1])
            padded = steps * LANES * (2 + run * delta.values.element_size())
            return order.starts.nbytes + order.rows.nbytes + padded
    return delta.num_bytes


def compile_delta(delta: WeightDelta) -> CompiledOperand:
    """The operand of a delta that `can_compile`."""
    scale = round_to_fp32(delta.scale)
    match delta:
        case ElementDelta() | BlockDelta():
            arrays, run = _runs(delta)
            kind = TILES if run % CHAINS == 0 and _are_shared(arrays[2]) else RUNS
            return CompiledOperand(kind, CODES[delta.values.dtype], run, arrays, scale)
        case LowRankDelta():
            arrays, rank = (_stored(delta.a), _stored(delta.b.T)), len(delta.a)
            return CompiledOperand(LOW_RANK, CODES[delta.a.dtype], rank, arrays, scale)
        case BiasDelta():
            arrays = (_stored(delta.bias),)
            return CompiledOperand(BIAS, CODES[delta.bias.dtype], 1, arrays, scale)
    raise AssertionError(f"no compiled layout for {delta.kind}")


def _are_shared(columns: Numbers) -> bool:
    """Whether all rows of a slice have the same column at every step."""
    steps = columns.reshape(-1, LANES)
    return bool((steps == steps[:, :1]).all())


def _stored(values: Tensor) -> Numbers:
    """A copy of `values`, 16-bit numbers as their bits."""
    own = values.contiguous().clone()
    return own.view(STORED_AS[own.element_size()]).numpy()


def _run_places(delta: ElementDelta | BlockDelta) -> tuple[Numbers, Numbers, int]:
    """Row (int32) and first column (uint16) of every run, and the columns of a run."""
    if isinstance(delta, ElementDelta):
        rows = np.empty(len(delta.indices), np.int32)
        columns = np.empty(len(delta.indices), np.uint16)
        filing.split(delta.indices.numpy(), delta.shape[1], rows, columns)
        return rows, columns, 1
    tile_rows = delta.rows()  # [n, Br]
    first = delta.columns()[:, :1].expand(tile_rows.shape)
    rows = tile_rows.flatten().numpy().astype(np.int32)
    return rows, first.flatten().numpy().astype(np.uint16), delta.block[1]


class _Order:
    """Which slice and lane each row has, where `rows` are the rows of all runs."""

    def __init__(self, rows: Numbers, num_rows: int) -> None:
        size = window_rows(num_rows)
        counts = np.zeros((-(-num_rows // size), size), np.int32)
        counts.flat[num_rows:] = -1  # behind all rows that there are
        filing.count(rows, counts.reshape(-1))
        own = np.argsort(-counts, axis=1, kind="stable").reshape(-1)
        own = own[: -(-num_rows // LANES) * LANES]
        own[num_rows:] = own[num_rows - 1]
        at = np.arange(0, len(own), LANES)
        longest = counts[at // size, own[at]]
        self.rows = own.astype(np.uint8)
        self.starts = np.concatenate([[0], longest]).cumsum().astype(np.int32)
        self._size = size

    def places(self, num_rows: int) -> NDArray[np.int64]:
        """Where each row's first step lies, in numbers: its slice's start and its lane."""
        windows = np.arange(len(self.rows)) // self._size
        rows = windows * self._size + self.rows
        at = np.arange(len(self.rows))
        places = np.empty(num_rows, np.int64)
        # Backwards, so that a row that also fills up its slice keeps its first place.
        places[rows[::-1]] = (self.starts[at // LANES].astype(np.int64) * LANES + at % LANES)[::-1]
        return places


def _runs(delta: ElementDelta | BlockDelta) -> tuple[tuple[Numbers, ...], int]:
    rows, columns, run = _run_places(delta)
    order = _Order(rows, delta.shape[0])
    steps = int(order.starts[-1])
    stored = _stored(delta.values).reshape(-1, run)
    values = np.zeros(steps * run * LANES, stored.dtype)
    filed = np.zeros(steps * LANES, np.uint16)
    filing.file(rows, columns, stored, order.places(delta.shape[0]), filed, values)
    return (order.starts, order.rows, filed, values.reshape(steps, run, LANES)), run

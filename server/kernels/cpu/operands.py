"""Deltas laid out for `deltas.py`: windows of rows, slices of rows, runs of columns.

The rows of a weight fall into windows of nearly equal size, the same for every delta of that
weight: what is added to the rows of one window is one thread's work. Within a window the rows of a
sparse delta are sorted by their number of entries, and each `LANES` of them are a slice: as many
steps as the longest has, in which shorter rows have zeros. Values stay in the dtype of their file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

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
SEGMENT, KIND, DTYPE, SIZE, SCALE, FIRST, SECOND, THIRD, FOURTH, INNER, NUM_COLUMNS = range(11)
STRIDE = THIRD  # of a low-rank delta, which has but two arrays
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
    Of `LOW_RANK`, `size` being the rank: A `[rank, in]`, B's columns `[rank, stride]`, zeros at
    their ends.
    Of `BIAS`, `size` 1: the bias `[out]`.
    """

    kind: int
    dtype: int  # of the values
    size: int
    arrays: tuple[Numbers, ...]
    scale: float
    descriptor: bytes = field(init=False)  # a row of the loops' table, with addresses

    def __post_init__(self) -> None:
        addresses = [array.ctypes.data for array in self.arrays]
        row = np.zeros(NUM_COLUMNS, np.int64)
        row[KIND:SCALE] = (self.kind, self.dtype, self.size)
        row[SCALE : SCALE + 1].view(np.float64)[:] = self.scale
        row[FIRST : FIRST + len(addresses)] = addresses
        if self.kind == LOW_RANK:
            row[STRIDE] = self.arrays[1].shape[1]
        object.__setattr__(self, "descriptor", row.tobytes())

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


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Which slice and lane each row of a sparse delta has: what its layout's size depends on."""

    rows: NDArray[np.uint8]  # [slices * LANES], within their windows
    starts: NDArray[np.int32]  # [slices + 1] of the slices, in steps
    firsts: NDArray[np.int64] | None  # [rows + 1], where each row's single entries begin


def order_of(delta: ElementDelta | BlockDelta) -> Order:
    """The order of a delta's rows."""
    num_rows = delta.shape[0]
    if isinstance(delta, ElementDelta):
        firsts = np.empty(num_rows + 1, np.int64)
        filing.find_rows(delta.indices.numpy(), delta.shape[1], firsts)
        return _sorted_order(np.diff(firsts), firsts)
    counts = np.zeros(num_rows, np.int64)
    filing.count(_run_rows(delta), counts)
    return _sorted_order(counts, None)


class Orders:
    """Orders of deltas whose bytes were told and that are yet to be laid out: made only once."""

    def __init__(self) -> None:
        self._told: WeakKeyDictionary[WeightDelta, Order] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._told)

    def tell(self, delta: ElementDelta | BlockDelta) -> Order:
        """The delta's order, which `take` will give again."""
        order = self._told[delta] = order_of(delta)
        return order

    def take(self, delta: ElementDelta | BlockDelta) -> Order:
        """The delta's order, forgotten here."""
        return self._told.pop(delta, None) or order_of(delta)


OrderOf = Callable[[ElementDelta | BlockDelta], Order]


def compiled_bytes(delta: WeightDelta, order_of: OrderOf = order_of) -> int:
    """Bytes of `compile_delta(delta)`, which is not made for it."""
    match delta:
        case ElementDelta() | BlockDelta():
            order = order_of(delta)
            padded = _num_runs(order) * (2 + _run_of(delta) * delta.values.element_size())
            return order.starts.nbytes + order.rows.nbytes + padded
        case LowRankDelta():
            rows = delta.a.shape[1] + _whole_lanes(len(delta.b))
            return len(delta.a) * rows * delta.a.element_size()
    return delta.num_bytes


def compile_delta(delta: WeightDelta, order_of: OrderOf = order_of) -> CompiledOperand:
    """The operand of a delta that `can_compile`."""
    scale = round_to_fp32(delta.scale)
    match delta:
        case ElementDelta() | BlockDelta():
            arrays, run = _runs(delta, order_of(delta)), _run_of(delta)
            kind = TILES if run % CHAINS == 0 and _are_shared(arrays[2]) else RUNS
            return CompiledOperand(kind, CODES[delta.values.dtype], run, arrays, scale)
        case LowRankDelta():
            columns = pad(delta.b.T, (0, _whole_lanes(len(delta.b)) - len(delta.b)))
            arrays, rank = (_copied(delta.a), _copied(columns)), len(delta.a)
            return CompiledOperand(LOW_RANK, CODES[delta.a.dtype], rank, arrays, scale)
        case BiasDelta():
            arrays = (_copied(delta.bias),)
            return CompiledOperand(BIAS, CODES[delta.bias.dtype], 1, arrays, scale)
    raise AssertionError(f"no compiled layout for {delta.kind}")


def _are_shared(columns: Numbers) -> bool:
    """Whether all rows of a slice have the same column at every step."""
    steps = columns.reshape(-1, LANES)
    return bool((steps == steps[:, :1]).all())


def _copied(values: Tensor) -> Numbers:
    return _stored(values.contiguous().clone())


def _stored(values: Tensor) -> Numbers:
    """`values` where they lie, 16-bit numbers as their bits."""
    own = values.detach().contiguous()
    return own.view(STORED_AS[own.element_size()]).numpy()


def _whole_lanes(rows: int) -> int:
    return -(-rows // LANES) * LANES


def _run_of(delta: ElementDelta | BlockDelta) -> int:
    """Columns of a run."""
    return delta.block[1] if isinstance(delta, BlockDelta) else 1


def _num_runs(order: Order) -> int:
    """Runs of all steps, padding among them."""
    return int(order.starts[-1]) * LANES


def _run_rows(delta: BlockDelta) -> NDArray[np.int32]:
    return delta.rows().flatten().numpy().astype(np.int32)


def _run_columns(delta: BlockDelta) -> NDArray[np.uint16]:
    """First column of every run."""
    first = delta.columns()[:, :1].expand(-1, delta.block[0])
    return first.flatten().numpy().astype(np.uint16)


def _sorted_order(counts: NDArray[np.int64], firsts: NDArray[np.int64] | None) -> Order:
    slices = -(-len(counts) // LANES)
    rows = np.empty(slices * LANES, np.uint8)
    starts = np.zeros(slices + 1, np.int32)
    filing.sort_rows(counts, window_rows(len(counts)), rows, starts[1:])
    np.cumsum(starts, out=starts)
    return Order(rows, starts, firsts)


def _runs(delta: ElementDelta | BlockDelta, order: Order) -> tuple[Numbers, ...]:
    stored, run = _stored(delta.values), _run_of(delta)
    columns = np.empty(_num_runs(order), np.uint16)
    values = np.empty(_num_runs(order) * run, stored.dtype)
    if isinstance(delta, ElementDelta):
        size, flat = window_rows(delta.shape[0]), delta.indices.numpy()
        own = (order.firsts, order.rows, size, order.starts)
        filing.file_rows(flat, stored, delta.shape[1], *own, columns, values)
    else:
        columns[:], values[:] = 0, 0
        places, runs = _places(order, delta.shape[0]), stored.reshape(-1, run)
        filing.file(_run_rows(delta), _run_columns(delta), runs, places, columns, values)
    return order.starts, order.rows, columns, values.reshape(-1, run, LANES)


def _places(order: Order, num_rows: int) -> NDArray[np.int64]:
    """Where each row's first step lies, in runs: its slice's start and its lane."""
    size, at = window_rows(num_rows), np.arange(num_rows)
    places = np.empty(num_rows, np.int64)
    rows = at // size * size + order.rows[:num_rows]
    places[rows] = order.starts[at // LANES].astype(np.int64) * LANES + at % LANES
    return places

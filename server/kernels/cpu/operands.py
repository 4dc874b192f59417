"""Deltas laid out for `deltas.py`: windows of rows, slices of rows, runs of columns.

The rows of a weight fall into windows of nearly equal size, the same for every delta of that
weight: what is added to the rows of one window is one thread's work. Within a window the rows of a
sparse delta are sorted by their number of entries, and each `LANES` of them are a slice: as many
steps as the longest has, in which shorter rows have zeros. Values stay in the dtype of their file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from adapters_store.canonical import round_to_fp32
from server.kernels.cpu.vectors import LANES

WINDOW_ROWS = 256  # at most
MOST_COLUMNS = 1 << 16  # that a column's two bytes can tell apart
RUNS, LOW_RANK, BIAS = range(3)  # kinds of descriptor
DTYPES = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.int16}
FP32, BF16, FP16 = range(3)  # dtypes of descriptor
CODES = {torch.float32: FP32, torch.bfloat16: BF16, torch.float16: FP16}

Numbers = NDArray[np.generic]


class CompiledOperand(Protocol):
    """A laid-out delta as the compiled loops see it."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def descriptor(self) -> tuple[int, ...]:
        """Kind, dtype, addresses and sizes: `DESCRIPTOR_SIZE` whole numbers."""

    @property
    def scale(self) -> float: ...


@dataclass(frozen=True, slots=True, eq=False)
class RunsOperand:
    """Entries in runs of `run` columns; a single entry is a run of one."""

    starts: NDArray[np.int32]  # [slices + 1], in steps
    rows: NDArray[np.uint8]  # [slices * LANES], within the window; of padding: its last row's
    columns: NDArray[np.uint16]  # [steps * LANES]
    values: Numbers  # [steps * run * LANES]
    run: int
    scale: float
    descriptor: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        arrays = (self.starts, self.rows, self.columns, self.values)
        object.__setattr__(self, "descriptor", _described(RUNS, self.values, arrays, self.run))

    @property
    def num_bytes(self) -> int:
        return sum(a.nbytes for a in (self.starts, self.rows, self.columns, self.values))


@dataclass(frozen=True, slots=True, eq=False)
class LowRankOperand:
    a: Numbers  # [r, in]
    b: Numbers  # [r, out]: B's columns
    scale: float
    descriptor: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        made = _described(LOW_RANK, self.a, (self.a, self.b), len(self.a))
        object.__setattr__(self, "descriptor", made)

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class BiasOperand:
    bias: Numbers  # [out]
    scale: float
    descriptor: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "descriptor", _described(BIAS, self.bias, (self.bias,), 1))

    @property
    def num_bytes(self) -> int:
        return self.bias.nbytes


COMPILED = (RunsOperand, LowRankOperand, BiasOperand)


def _described(kind: int, values: Numbers, arrays: Sequence[Numbers], size: int) -> tuple[int, ...]:
    codes = {np.dtype(stored): CODES[dtype] for dtype, stored in DTYPES.items()}
    addresses = [array.ctypes.data for array in arrays]
    return (kind, codes[values.dtype], size, *addresses, *[0] * (4 - len(addresses)))


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
            return _runs(delta, scale)
        case LowRankDelta():
            return LowRankOperand(_stored(delta.a), _stored(delta.b.T), scale)
        case BiasDelta():
            return BiasOperand(_stored(delta.bias), scale)
    raise AssertionError(f"no compiled layout for {delta.kind}")


def _stored(values: Tensor) -> Numbers:
    """A copy of `values` for compiled loops, its 16-bit numbers as whole ones."""
    own = values.contiguous().clone()
    kind = {2: torch.int16}.get(own.element_size(), torch.float32)
    stored: Numbers = own.view(kind).numpy().view(DTYPES[values.dtype])
    return stored


def _run_places(delta: ElementDelta | BlockDelta) -> tuple[Numbers, Numbers, int]:
    """Row and first column of every run, and the columns of a run."""
    if isinstance(delta, ElementDelta):
        rows, columns = np.divmod(delta.indices.numpy(), delta.shape[1])
        return rows, columns, 1
    tile_rows = delta.rows()  # [n, Br]
    first = delta.columns()[:, :1].expand(tile_rows.shape)
    return tile_rows.flatten().numpy(), first.flatten().numpy(), delta.block[1]


class _Order:
    """Which slice and lane each row has, where `rows` are the rows of all runs."""

    def __init__(self, rows: Numbers, num_rows: int) -> None:
        counts = np.bincount(rows, minlength=num_rows)
        size = window_rows(num_rows)
        slices, longest = [], []
        for first, past in pairwise([*range(0, num_rows, size), num_rows]):
            own = np.argsort(-counts[first:past], kind="stable")
            filled = np.resize(own, -(-len(own) // LANES) * LANES)
            filled[len(own) :] = own[-1]
            slices.append(filled)
            longest.append(counts[first + own[::LANES]])
        self.rows = np.concatenate(slices).astype(np.uint8)
        self.starts = np.concatenate([[0], *longest]).cumsum().astype(np.int32)
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


def _runs(delta: ElementDelta | BlockDelta, scale: float) -> RunsOperand:
    rows, columns, run = _run_places(delta)
    order = _Order(rows, delta.shape[0])
    sorted_ = np.argsort(rows, kind="stable")
    rows, columns = rows[sorted_], columns[sorted_]
    first = np.searchsorted(rows, np.arange(delta.shape[0]))
    at = order.places(delta.shape[0])[rows] + (np.arange(len(rows)) - first[rows]) * LANES
    steps = int(order.starts[-1])
    stored = _stored(delta.values).reshape(-1, run)[sorted_]
    values = np.zeros((steps, run, LANES), stored.dtype)
    values[at // LANES, :, at % LANES] = stored
    placed = np.zeros(steps * LANES, np.uint16)
    placed[at] = columns
    return RunsOperand(order.starts, order.rows, placed, values.reshape(-1), run, scale)

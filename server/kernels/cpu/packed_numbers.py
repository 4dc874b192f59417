"""Where the numbers of a weight lie once oneDNN has packed it, so that single ones can be written.

A pack is the weight's numbers in another order, and zeros that fill up its blocks. In every layout
that oneDNN has for this a number's place is one term of its row plus one of its column, and both
are learned by packing rows' and columns' own numbers. That is checked for every single number.
Where it does not hold, or this build of torch does not tell where a pack lies, whole weights are
packed anew instead.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.products import pack, product
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import prefetch

Places = NDArray[np.int64]
TASK = 1 << 14  # numbers that a thread reads or writes at a time
AHEAD = 48  # numbers whose memory is sent for before it is needed
AT_ONCE = 1 << 20  # numbers that are checked at a time
FP32_BYTES = 4
PROBED = (80, 48)  # shape of a weight that is multiplied to see a write


@dataclass(frozen=True, slots=True, eq=False)
class PlaceMap:
    """Number (r, c) of a weight of one shape lies at `rows[r] + columns[c]` of its pack."""

    rows: Places  # [out]
    columns: Places  # [in]


def numbers_of(weight: Tensor) -> NDArray[np.float32]:
    """The memory of a packed or a plain fp32 weight, flat. Valid while the weight is."""
    if not weight.is_mkldnn:
        return weight.view(-1).numpy()
    address: int = torch.ops.mkldnn.data_ptr(weight)
    num_bytes: int = torch.ops.mkldnn._nbytes(weight)
    memory = (ctypes.c_float * (num_bytes // FP32_BYTES)).from_address(address)
    numbers: NDArray[np.float32] = np.ctypeslib.as_array(memory)
    return numbers


def map_of(weight: Tensor) -> PlaceMap:
    """Where the numbers of a weight lie; where it `must_repack`, in its plain form."""
    shape = (weight.shape[0], weight.shape[1])
    found = _packed_map(*shape) if weight.is_mkldnn and can_write() else None
    return found or PlaceMap(np.arange(shape[0]) * shape[1], np.arange(shape[1]))


def must_repack(weight: Tensor) -> bool:
    """Whether single numbers of a weight cannot be written, so that it is packed anew."""
    return weight.is_mkldnn and not (can_write() and _packed_map(*weight.shape))


@cache
def can_write() -> bool:
    """Whether a number that is written into a pack is multiplied by: tried once."""
    weight = torch.randn(PROBED, generator=torch.Generator().manual_seed(0))
    packed, unit = pack(weight), torch.eye(PROBED[1])
    try:
        found = _learned(*PROBED)
        if found is None:
            return False
        for row, column in ((0, 0), (17, 31), (79, 47)):
            weight[row, column] = row + 0.5
            numbers_of(packed)[found.rows[row] + found.columns[column]] = row + 0.5
        return torch.equal(product(unit, packed), weight.T)
    except (AttributeError, RuntimeError):
        return False


def read(weight: Tensor, places: Tensor, threads: int) -> Tensor:
    """The numbers at `places`, as `map_of` gives them."""
    if must_repack(weight):
        return weight.to_dense().view(-1)[places]
    values = torch.empty(len(places))
    gather(numbers_of(weight), places.numpy(), values.numpy(), threads)
    return values


def write(weight: Tensor, places: Tensor, values: Tensor, threads: int) -> None:
    """Set them. A weight that is packed anew stays where it lies."""
    if not must_repack(weight):
        scatter(numbers_of(weight), places.numpy(), values.numpy(), threads)
        return
    plain = weight.to_dense()
    plain.view(-1)[places] = values
    weight.copy_(pack(plain))


@cache
def _packed_map(out: int, width: int) -> PlaceMap | None:
    return _learned(out, width)


def _learned(out: int, width: int) -> PlaceMap | None:
    """None where the rule that this file opens with does not hold."""
    numbered_rows = torch.arange(1.0, out + 1)[:, None].expand(out, width)
    packed_rows = pack(numbered_rows)
    packed_columns = pack(torch.arange(1.0, width + 1).expand(out, width))
    row_at, column_at = numbers_of(packed_rows), numbers_of(packed_columns)
    rows, columns = np.zeros(out, np.int64), np.zeros(width, np.int64)
    first = np.flatnonzero(column_at == 1)
    rows[row_at[first].astype(np.int64) - 1] = first
    top = np.flatnonzero(row_at == 1)
    columns[column_at[top].astype(np.int64) - 1] = top - rows[0]
    found = PlaceMap(rows, columns)
    return found if _holds(found, row_at, column_at) else None


def _holds(found: PlaceMap, row_at: NDArray[np.float32], column_at: NDArray[np.float32]) -> bool:
    """Whether every number lies where the map says, and every other place has a zero."""
    total = 0
    for start in range(0, len(row_at), AT_ONCE):
        at = np.flatnonzero(row_at[start : start + AT_ONCE]) + start
        row, column = (numbers[at].astype(np.int64) - 1 for numbers in (row_at, column_at))
        if not np.array_equal(found.rows[row] + found.columns[column], at):
            return False
        total += len(at)
    return total == len(found.rows) * len(found.columns)


@compiled
def gather(numbers: Any, places: Any, values: Any, threads: int) -> None:
    """`values[:] = numbers[places]`."""
    tasks = (len(places) + TASK - 1) // TASK
    run_tasks(_gather, tasks, threads, (numbers, places, values))


@compiled
def _gather(task: int, numbers: Any, places: Any, values: Any) -> None:
    past = min((task + 1) * TASK, len(places))
    for at in range(task * TASK, past):
        prefetch(numbers, places[min(at + AHEAD, past - 1)], 1)
        values[at] = numbers[places[at]]


@compiled
def scatter(numbers: Any, places: Any, values: Any, threads: int) -> None:
    """`numbers[places] = values`."""
    tasks = (len(places) + TASK - 1) // TASK
    run_tasks(_scatter, tasks, threads, (numbers, places, values))


@compiled
def _scatter(task: int, numbers: Any, places: Any, values: Any) -> None:
    for at in range(task * TASK, min((task + 1) * TASK, len(places))):
        numbers[places[at]] = values[at]

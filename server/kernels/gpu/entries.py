"""The single entries that a laid-out delta changes, told on its device.

Padding has zeros, and an entry of zero changes nothing: neither is told.
"""

import torch
from torch import Tensor

from server.kernels.gpu.operands import EDGE, GpuOperand, Part, Work
from server.kernels.gpu.slices import LANES, NO_ROW, WINDOW_ROWS
from server.kernels.gpu.table import ROWS, SCALE, SIZE
from server.kernels.interface import Entries

SPARSE = (Work.ENTRIES, Work.RUNS, Work.TILES)


def has_entries(operand: GpuOperand) -> bool:
    return operand.parts[-1].work in SPARSE


def operand_entries(operand: GpuOperand, width: int) -> Entries:
    """The entries of an operand that `has_entries`, of a weight of `width` columns."""
    (part,) = operand.parts
    if part.work is Work.TILES:
        rows, columns = _tile_places(part, operand.arrays)
    else:
        rows, columns = _run_places(operand.arrays)
    values = operand.arrays[-1]
    changes = values != 0
    places = (rows * width + columns)[changes]
    scale = torch.tensor(int(part.row[SCALE]), dtype=torch.int32).view(torch.float32)
    return Entries(places, values[changes].float(), float(scale))


def _run_places(arrays: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Row and column of every number of runs, padding too, that broadcast to `[places, run]`."""
    bounds, tails, places, columns, values = arrays
    firsts, tails = bounds[:, 0].long(), tails.long()
    num_steps = len(columns) // LANES
    slices = torch.arange(len(firsts) - 1, device=firsts.device)
    windows = slices * LANES // WINDOW_ROWS * WINDOW_ROWS
    of_window = places.int().where(places.int() != NO_ROW, 0).view(-1, LANES)
    lane_rows = windows[:, None] + of_window
    rows = lane_rows.repeat_interleave(firsts.diff(), 0, output_size=num_steps)
    steps = torch.arange(num_steps, device=firsts.device)
    tail = torch.searchsorted(tails[:, 1].contiguous(), steps, right=True) - 1
    is_tail = (tail >= 0) & (steps < torch.cat((tails[:, 2], steps[:1]))[tail])
    lanes = torch.cat((tails[:, 0], steps[:1]))[tail]
    rows = torch.where(is_tail[:, None], rows.gather(1, lanes[:, None]), rows)
    run = torch.arange(values.shape[1], device=firsts.device)
    return rows.view(-1, 1), columns.long()[:, None] + run


def _tile_places(part: Part, arrays: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Row and column of every number of tiles, that broadcast to `[tiles, EDGE, EDGE]`."""
    starts, columns, _ = arrays
    counts = starts.diff().long()
    edge = torch.arange(EDGE, device=starts.device)
    tile_rows = torch.arange(len(counts), device=starts.device)
    tile_rows = tile_rows.repeat_interleave(counts, output_size=len(columns))
    permuted = tile_rows[:, None] * EDGE + edge
    stride = int(part.row[SIZE])
    group = int(part.row[ROWS]) // stride
    rows = permuted % group * stride + permuted // group
    return rows[:, :, None], (columns.long()[:, None] * EDGE + edge)[:, None, :]

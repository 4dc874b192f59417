"""The bytes of a quantized weight, in the order in which its products read them.

`WIDTH` rows of the weight are a tile. A tile goes group by group: for every `DEPTH` columns of the
group those of all rows, one row after the other, then the rows' scales in fp32. Numbers are kept
128 higher than they are, as bytes without a sign, which is what processors multiply.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels.cpu.int8.bytes import DEPTH
from server.kernels.cpu.int8.grouped import GROUP, Grouped, quantize
from server.kernels.cpu.vectors import WIDTH

OFFSET = 128
SCALE_BYTES = 4
GROUP_BYTES = WIDTH * (GROUP + SCALE_BYTES)  # of a tile
TILES_AT_ONCE = 64  # whose copies in fp32 are in memory while packing


def row_bytes(width: int) -> int:
    """Bytes of a row of `width` numbers, with its scales."""
    return -(-width // GROUP) * (GROUP + SCALE_BYTES)


def pack(weight: Tensor) -> Tensor:
    """`weight [out, in]` as bytes `[out, row_bytes(in)]`.

    The rows of that matrix are no rows of the weight, and the memory goes on behind it to the end
    of the last tile: it is to be read by its address, and not to be copied.
    """
    parts = [_tiles(rows) for rows in weight.split(WIDTH * TILES_AT_ONCE)]
    return torch.cat(parts).view(-1, parts[0].shape[1] // WIDTH)[: len(weight)]


def unpack(packed: Tensor) -> Grouped:
    """What was packed, without what filled up the last tile."""
    tiles = -(-len(packed) // WIDTH)
    whole = packed.as_strided((tiles, packed.shape[1] * WIDTH), (packed.shape[1] * WIDTH, 1))
    groups = whole.reshape(tiles, -1, GROUP_BYTES)
    stored = groups[..., : WIDTH * GROUP].reshape(tiles, -1, GROUP // DEPTH, WIDTH, DEPTH)
    numbers = (stored.permute(0, 3, 1, 2, 4).reshape(tiles * WIDTH, -1, GROUP).short() - OFFSET).to(
        torch.int8
    )
    scales = groups[..., WIDTH * GROUP :].contiguous().view(torch.float32).transpose(1, 2)
    return Grouped(numbers[: len(packed)], scales.reshape(tiles * WIDTH, -1)[: len(packed)])


def _tiles(rows: Tensor) -> Tensor:
    """`[tiles, bytes of a tile]`."""
    filled = quantize(F.pad(rows, (0, 0, 0, -len(rows) % WIDTH)))
    stored = (filled.numbers.short() + OFFSET).to(torch.uint8)
    tiles = stored.view(-1, WIDTH, stored.shape[1], GROUP // DEPTH, DEPTH).permute(0, 2, 3, 1, 4)
    scales = filled.scales.view(len(tiles), WIDTH, -1).transpose(1, 2).contiguous()
    return torch.cat([tiles.flatten(2), scales.view(torch.uint8)], 2).flatten(1)

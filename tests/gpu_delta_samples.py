"""Deltas of every kind and layout over one small weight, for the kernels of a GPU."""

from collections.abc import Callable

import torch

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)

SHAPE = (80, 64)  # the last slice of rows is half full


def element(dtype: torch.dtype, source: torch.Generator) -> WeightDelta:
    drawn = torch.randperm(SHAPE[0] * SHAPE[1], generator=source)[:300]
    whole_rows = torch.cat([torch.arange(64 * row, 64 * row + 64) for row in (7, 8, SHAPE[0] - 1)])
    indices = torch.cat((drawn[drawn // 64 != 9], whole_rows)).unique()
    values = torch.randn(len(indices), generator=source).to(dtype)
    return ElementDelta(layer="l", shape=SHAPE, scale=0.7, indices=indices.int(), values=values)


def block(
    dtype: torch.dtype, source: torch.Generator, size: tuple[int, int], stride: int = 1
) -> WeightDelta:
    num_tiles = SHAPE[0] * SHAPE[1] // (size[0] * size[1])
    drawn = torch.randperm(num_tiles, generator=source)[: num_tiles // 5]
    tiles = torch.cat((drawn, torch.tensor([0, num_tiles - 1]))).unique()
    return BlockDelta(
        layer="l",
        shape=SHAPE,
        scale=-1.5,
        block=size,
        block_index=tiles.int(),
        values=torch.randn(len(tiles), *size, generator=source).to(dtype),
        row_stride=stride,
    )


def low_rank(dtype: torch.dtype, source: torch.Generator, rank: int = 5) -> WeightDelta:
    a = torch.randn(rank, SHAPE[1], generator=source).to(dtype)
    b = torch.randn(SHAPE[0], rank, generator=source)  # of another dtype, perhaps
    return LowRankDelta(layer="l", shape=SHAPE, scale=0.3, a=a, b=b)


def dense(dtype: torch.dtype, source: torch.Generator) -> WeightDelta:
    return DenseDelta(layer="l", shape=SHAPE, delta=torch.randn(SHAPE, generator=source).to(dtype))


def bias(dtype: torch.dtype, source: torch.Generator) -> WeightDelta:
    values = torch.randn(SHAPE[0], generator=source).to(dtype)
    return BiasDelta(layer="l", shape=SHAPE, scale=3.0, bias=values)


MAKERS: dict[str, Callable[[torch.dtype, torch.Generator], WeightDelta]] = {
    "element": element,
    "block 16x16": lambda dtype, source: block(dtype, source, (16, 16)),
    "block 16x16 strided": lambda dtype, source: block(dtype, source, (16, 16), stride=5),
    "block 1x16": lambda dtype, source: block(dtype, source, (1, 16)),
    "block 4x16": lambda dtype, source: block(dtype, source, (4, 16)),
    "block 4x2": lambda dtype, source: block(dtype, source, (4, 2)),
    "low rank": low_rank,
    "low rank, of more than a panel": lambda dtype, source: low_rank(dtype, source, 40),
    "dense": dense,
    "bias": bias,
}

"""Seeded sparse deltas of one Phi-3-mini layer, made when they are needed."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from adapters_store.adapter import BlockDelta, ElementDelta, WeightDelta

SHAPE = (9216, 3072)  # qkv_proj of Phi-3-mini
BLOCK = (16, 16)
LAYER = "model.layers.0.self_attn.qkv_proj"


def element(source: np.random.Generator, keep_ratio: float) -> ElementDelta:
    """Every entry with probability `keep_ratio`."""
    places = _kept(source, SHAPE[0] * SHAPE[1], keep_ratio)
    values = torch.from_numpy(source.standard_normal(len(places), np.float32))
    return ElementDelta(layer=LAYER, shape=SHAPE, indices=places, values=values)


def block(source: np.random.Generator, keep_ratio: float) -> BlockDelta:
    """Every tile with probability `keep_ratio`."""
    count = SHAPE[0] * SHAPE[1] // (BLOCK[0] * BLOCK[1])
    tiles = _kept(source, count, keep_ratio)
    values = torch.from_numpy(source.standard_normal((len(tiles), *BLOCK), np.float32))
    return BlockDelta(layer=LAYER, shape=SHAPE, block=BLOCK, block_index=tiles, values=values)


KINDS: Mapping[str, Callable[[np.random.Generator, float], WeightDelta]] = {
    "element": element,
    "block 16x16": block,
}


def make_layer(kind: str, keep_ratio: float, members: int, seed: int) -> list[WeightDelta]:
    """The same layer of `members` adapters; a seed always gives it."""
    source = np.random.Generator(np.random.SFC64(seed))
    return [KINDS[kind](source, keep_ratio) for _ in range(members)]


def _kept(source: np.random.Generator, count: int, keep_ratio: float) -> torch.Tensor:
    kept = np.flatnonzero(source.random(count, np.float32) < keep_ratio)
    return torch.from_numpy(kept.astype(np.int32))

"""Random adapters of every kind for any base, large enough to change what the base says."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapters_store.adapter import (
    BaseIdentity,
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)

Shape = tuple[int, int]
QKV, DOWN = "model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.down_proj"
RANK = 2


class Draw(NamedTuple):
    """How an adapter's numbers are drawn."""

    source: torch.Generator
    spread: float  # sd of the values
    keep_ratio: float  # share of a layer's entries or tiles


def make_adapter(
    base: BaseIdentity,
    kind: str = "element",
    seed: int = 0,
    layers: Sequence[str] = (QKV, DOWN),
    *,
    spread: float = 0.5,  # the tiny bases' weights have 0.1
    keep_ratio: float = 0.1,
) -> SparseAdapter:
    """An adapter of one `kind` (a key of KINDS) for `layers` of `base`; a seed always gives it."""
    draw = Draw(torch.Generator().manual_seed(seed), spread, keep_ratio)
    deltas = (KINDS[kind](layer, base.layers[layer].shape, draw) for layer in sorted(layers))
    digests = {layer: base.layers[layer].digest for layer in layers}
    return SparseAdapter(base.name, digests, tuple(deltas), {})


def _values(draw: Draw, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw.source) * draw.spread


def _places(draw: Draw, count: int) -> Tensor:
    """The kept share of `count` places, at least one, ascending."""
    chosen = torch.randperm(count, generator=draw.source)[: max(1, int(count * draw.keep_ratio))]
    return chosen.sort().values.to(torch.int32)


def _element(layer: str, shape: Shape, draw: Draw) -> WeightDelta:
    indices = _places(draw, shape[0] * shape[1])
    values = _values(draw, len(indices))
    return ElementDelta(layer=layer, shape=shape, indices=indices, values=values)


def _tiles(block: Shape) -> Callable[[str, Shape, Draw], WeightDelta]:
    def make(layer: str, shape: Shape, draw: Draw) -> WeightDelta:
        tiles = _places(draw, (shape[0] // block[0]) * (shape[1] // block[1]))
        values = _values(draw, len(tiles), *block)
        return BlockDelta(layer=layer, shape=shape, block=block, block_index=tiles, values=values)

    return make


def _low_rank(layer: str, shape: Shape, draw: Draw) -> WeightDelta:
    a, b = _values(draw, RANK, shape[1]), _values(draw, shape[0], RANK)
    return LowRankDelta(layer=layer, shape=shape, a=a, b=b)


def _dense(layer: str, shape: Shape, draw: Draw) -> WeightDelta:
    return DenseDelta(layer=layer, shape=shape, delta=_values(draw, *shape))


def _bias(layer: str, shape: Shape, draw: Draw) -> WeightDelta:
    return BiasDelta(layer=layer, shape=shape, bias=_values(draw, shape[0]))


KINDS: dict[str, Callable[[str, Shape, Draw], WeightDelta]] = {
    "element": _element,
    "block 16x16": _tiles((16, 16)),
    "block 1x16": _tiles((1, 16)),
    "low_rank": _low_rank,
    "dense": _dense,
    "bias": _bias,
}

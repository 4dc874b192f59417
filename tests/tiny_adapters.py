"""Random adapters of every kind for any base, large enough to change what the base says."""

from collections.abc import Callable, Sequence

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
SPREAD = 0.5  # sd of the values; the tiny bases' weights have 0.1
KEEP_RATIO = 0.1
RANK = 2


def make_adapter(
    base: BaseIdentity, kind: str = "element", seed: int = 0, layers: Sequence[str] = (QKV, DOWN)
) -> SparseAdapter:
    """An adapter of one `kind` (a key of KINDS) for `layers` of `base`; a seed always gives it."""
    source = torch.Generator().manual_seed(seed)
    deltas = (KINDS[kind](layer, base.layers[layer].shape, source) for layer in sorted(layers))
    digests = {layer: base.layers[layer].digest for layer in layers}
    return SparseAdapter(base.name, digests, tuple(deltas), {})


def _values(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=source) * SPREAD


def _places(source: torch.Generator, count: int) -> Tensor:
    """A tenth of `count` places, ascending."""
    chosen = torch.randperm(count, generator=source)[: max(1, int(count * KEEP_RATIO))]
    return chosen.sort().values.to(torch.int32)


def _element(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    indices = _places(source, shape[0] * shape[1])
    values = _values(source, len(indices))
    return ElementDelta(layer=layer, shape=shape, indices=indices, values=values)


def _tiles(block: Shape) -> Callable[[str, Shape, torch.Generator], WeightDelta]:
    def make(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
        tiles = _places(source, (shape[0] // block[0]) * (shape[1] // block[1]))
        values = _values(source, len(tiles), *block)
        return BlockDelta(layer=layer, shape=shape, block=block, block_index=tiles, values=values)

    return make


def _low_rank(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    a, b = _values(source, RANK, shape[1]), _values(source, shape[0], RANK)
    return LowRankDelta(layer=layer, shape=shape, a=a, b=b)


def _dense(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    return DenseDelta(layer=layer, shape=shape, delta=_values(source, *shape))


def _bias(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    return BiasDelta(layer=layer, shape=shape, bias=_values(source, shape[0]))


KINDS: dict[str, Callable[[str, Shape, torch.Generator], WeightDelta]] = {
    "element": _element,
    "block 16x16": _tiles((16, 16)),
    "block 1x16": _tiles((1, 16)),
    "low_rank": _low_rank,
    "dense": _dense,
    "bias": _bias,
}

"""Random adapters of every kind over a small base, and the parts that make them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from adapters_store.adapter import (
    BaseIdentity,
    BaseLayer,
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from adapters_store.validation import Limits

QKV, GATE_UP, DOWN = "layers.0.self_attn.qkv_proj", "layers.0.mlp.gate_up_proj", "layers.1.down"
BASE = BaseIdentity(
    "tiny-base",
    {
        QKV: BaseLayer((48, 16), f"sha256:{'a' * 64}"),
        GATE_UP: BaseLayer((32, 16), f"sha256:{'b' * 64}"),
        DOWN: BaseLayer((16, 24), f"sha256:{'c' * 64}"),
    },
)
LIMITS = Limits(max_file_bytes=1 << 20, max_nnz=10_000)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Random = torch.Generator


def random(seed: int) -> Random:
    return torch.Generator().manual_seed(seed)


def _values(shape: tuple[int, ...], dtype: torch.dtype, source: Random) -> torch.Tensor:
    return torch.randn(shape, generator=source).to(dtype)


def _places(count: int, source: Random) -> torch.Tensor:
    """A quarter of `count` places, at least one, ascending."""
    chosen = torch.randperm(count, generator=source)[: max(1, count // 4)]
    return chosen.sort().values.to(torch.int32)


def element(layer: str, dtype: torch.dtype, source: Random) -> ElementDelta:
    shape = BASE.layers[layer].shape
    indices = _places(shape[0] * shape[1], source)
    values = _values((len(indices),), dtype, source)
    return ElementDelta(layer=layer, shape=shape, scale=0.5, indices=indices, values=values)


def block(
    layer: str, dtype: torch.dtype, source: Random, *, rows: int = 4, row_stride: int = 1
) -> BlockDelta:
    shape = BASE.layers[layer].shape
    tiles = _places((shape[0] // rows) * (shape[1] // 8), source)
    return BlockDelta(
        layer=layer,
        shape=shape,
        block=(rows, 8),
        block_index=tiles,
        values=_values((len(tiles), rows, 8), dtype, source),
        row_stride=row_stride,
    )


def strided_block(layer: str, dtype: torch.dtype, source: Random) -> BlockDelta:
    out, columns = BASE.layers[layer].shape
    return block(layer, dtype, source, row_stride=out // columns or 1)


def low_rank(layer: str, dtype: torch.dtype, source: Random) -> LowRankDelta:
    out, columns = shape = BASE.layers[layer].shape
    a, b = _values((3, columns), dtype, source), _values((out, 3), dtype, source)
    return LowRankDelta(layer=layer, shape=shape, scale=2.0, a=a, b=b)


def dense(layer: str, dtype: torch.dtype, source: Random) -> DenseDelta:
    shape = BASE.layers[layer].shape
    return DenseDelta(layer=layer, shape=shape, delta=_values(shape, dtype, source))


def bias(layer: str, dtype: torch.dtype, source: Random) -> BiasDelta:
    shape = BASE.layers[layer].shape
    return BiasDelta(layer=layer, shape=shape, bias=_values(shape[:1], dtype, source))


Make = Callable[[str, torch.dtype, Random], WeightDelta]
MAKERS: dict[str, Make] = {
    "element": element,
    "block": block,
    "strided block": strided_block,
    "low rank": low_rank,
    "dense": dense,
    "bias": bias,
}


def adapter_of(*deltas: WeightDelta, notes: Mapping[str, str] | None = None) -> SparseAdapter:
    """An adapter for BASE with these deltas, in the order that adapters have."""
    ordered = tuple(sorted(deltas, key=lambda delta: (delta.layer, delta.kind)))
    base = {delta.layer: BASE.layers[delta.layer].digest for delta in ordered}
    return SparseAdapter(BASE.name, base, ordered, notes or {})


def random_adapter(seed: int = 0, kind: str = "element") -> SparseAdapter:
    """One delta of `kind`, in fp32."""
    return adapter_of(MAKERS[kind](QKV, torch.float32, random(seed)))


def change(original: WeightDelta, **fields: Any) -> SparseAdapter:
    """An adapter of `original` with other fields."""
    return adapter_of(replace(original, **fields))


@st.composite
def adapters(draw: st.DrawFn) -> SparseAdapter:
    """Every kind and dtype, one weight delta or bias or both on each of some layers."""
    source = random(draw(st.integers(0, 2**31)))
    deltas: list[WeightDelta] = []
    for layer in draw(st.sets(st.sampled_from(sorted(BASE.layers)), min_size=1)):
        makers = draw(st.sampled_from([[make] for make in MAKERS.values()]))
        if draw(st.booleans()) and bias not in makers:
            makers = [*makers, bias]
        deltas += [make(layer, draw(st.sampled_from(DTYPES)), source) for make in makers]
    notes = draw(st.dictionaries(st.text('abcé"\\', max_size=4), st.text("xyz{}", max_size=4)))
    return adapter_of(*deltas, notes=notes)

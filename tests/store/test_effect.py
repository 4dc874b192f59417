"""The effect report: numbers that a dense computation agrees with."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_factories import BASE, DTYPES, MAKERS, QKV, adapter_of, adapters, random, random_adapter

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, LowRankDelta, SparseAdapter
from adapters_store.effect import BASE_DTYPES, Parts, effect_of

# QKV is [48, 16]: the rows of q, k and v.
PARTS: Parts = {
    "self_attn.q_proj": ("self_attn.qkv_proj", 0, 24),
    "self_attn.k_proj": ("self_attn.qkv_proj", 24, 8),
    "self_attn.v_proj": ("self_attn.qkv_proj", 32, 16),
    "mlp.gate_proj": ("mlp.gate_up_proj", 0, 16),
    "mlp.up_proj": ("mlp.gate_up_proj", 16, 16),
}


class Weights:
    """A base of random values, some of them large enough to swallow a delta."""

    def __init__(self, seed: int) -> None:
        source = random(seed)
        self.of = {
            name: torch.randn(layer.shape, generator=source).exp2() * 100
            for name, layer in BASE.layers.items()
        }

    def entries(self, layer: str, rows: slice) -> torch.Tensor:
        return self.of[layer][rows]


@given(adapters())
def test_norms_and_counts_agree_with_the_dense_delta(adapter: SparseAdapter) -> None:
    effect = effect_of(adapter)
    squares = 0.0
    for layer, delta in zip(effect.layers, adapter.deltas, strict=True):
        dense = delta.dense().double()
        assert (layer.layer, layer.kind, layer.nnz) == (delta.layer, delta.kind, delta.nnz)
        assert layer.density == delta.nnz / dense.numel()
        assert layer.norm == pytest.approx(dense.norm().item(), rel=1e-5)
        squares += dense.square().sum().item()
    assert effect.nnz == adapter.nnz
    assert effect.norm == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_density_of_an_element_delta_is_its_share_of_the_weight() -> None:
    (layer,) = effect_of(random_adapter(kind="element")).layers
    assert (layer.layer, layer.nnz, layer.density) == (QKV, 192, 0.25)


def test_low_rank_norm_needs_no_dense_product() -> None:
    """Factors whose product would take 4 TiB."""
    a, b = torch.ones(1, 1 << 20), torch.ones(1 << 20, 1)
    delta = LowRankDelta(layer="l", shape=(1 << 20, 1 << 20), a=a, b=b)
    assert effect_of(SparseAdapter("b", {}, (delta,))).norm == 2**20


@given(adapters())
def test_parts_agree_with_the_rows_of_the_dense_delta(adapter: SparseAdapter) -> None:
    effect = effect_of(adapter, PARTS)
    for layer, delta in zip(effect.layers, adapter.deltas, strict=True):
        dense = delta.dense().double()
        suffix = delta.layer.partition(".")[2].partition(".")[2]
        rows = {name: (first, n) for name, (fused, first, n) in PARTS.items() if fused == suffix}
        assert [part.name for part in layer.parts] == [name.rpartition(".")[2] for name in rows]
        for part, (first, count) in zip(layer.parts, rows.values(), strict=True):
            own = dense[first : first + count]
            assert part.norm == pytest.approx(own.norm().item(), rel=1e-5, abs=1e-9)
            assert part.density == part.nnz / own.numel()
        assert not rows or sum(part.nnz for part in layer.parts) == delta.nnz


@given(st.sampled_from(sorted(set(MAKERS) - {"bias"})), st.sampled_from(DTYPES), st.integers(0, 99))
def test_changed_share_agrees_with_rounding_the_dense_sum(
    kind: str, dtype: torch.dtype, seed: int
) -> None:
    delta, weights = MAKERS[kind](QKV, dtype, random(seed)), Weights(seed)
    [layer] = effect_of(adapter_of(delta), PARTS, weights).layers
    mask = torch.ones(delta.shape, dtype=torch.bool)
    if isinstance(delta, ElementDelta | BlockDelta):
        mask = replace(delta, values=torch.ones_like(delta.values)).dense() != 0
    assert layer.changed is not None
    for name, base_dtype in BASE_DTYPES.items():
        base = weights.of[QKV].to(base_dtype)
        differs = (base.float() + delta.dense()).to(base_dtype) != base
        assert layer.changed[name] == pytest.approx(differs[mask].float().mean().item())


def test_what_a_16_bit_base_swallows_is_told() -> None:
    delta = replace(random_adapter().deltas[0], scale=1e-4)
    [layer] = effect_of(adapter_of(delta), PARTS, Weights(1)).layers
    assert layer.changed is not None
    assert layer.changed["bfloat16"] < 0.1 < layer.changed["float32"]
    assert [part.changed is None for part in layer.parts] == [part.nnz == 0 for part in layer.parts]


def test_a_layer_of_another_base_and_a_bias_are_not_compared() -> None:
    adapter = random_adapter()
    effect = effect_of(adapter, PARTS, Weights(1), other_base=[QKV])
    assert (effect.other_base, effect.layers[0].changed) == ((QKV,), None)
    bias = effect_of(random_adapter(kind="bias"), PARTS, Weights(1))
    assert isinstance(random_adapter(kind="bias").deltas[0], BiasDelta)
    assert bias.layers[0].changed is None
    assert effect.digest == adapter.digest

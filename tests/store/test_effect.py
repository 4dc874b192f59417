"""The effect report: numbers that a dense computation agrees with."""

import math

import pytest
import torch
from hypothesis import given
from store_factories import QKV, adapters, random_adapter

from adapters_store.adapter import LowRankDelta, SparseAdapter
from adapters_store.effect import effect_of


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

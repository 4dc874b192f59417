"""A delta through a mask: its own values inside, nothing outside, against dense tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_factories import DTYPES, GATE_UP, MAKERS, QKV, adapter_of, random
from torch import Tensor

from adapters_store.adapter import BiasDelta, SparseAdapter, WeightDelta
from adapters_store.merging.masking import through_mask

WEIGHTS = sorted(kind for kind in MAKERS if kind != "bias")


def make(kind: str, seed: int, layer: str = QKV, dtype: torch.dtype = torch.float32) -> WeightDelta:
    return MAKERS[kind](layer, dtype, random(seed))


def mask_of(delta: WeightDelta) -> Tensor:
    """True where the delta may change the weight, whatever the values there."""
    if delta.kind in ("low_rank", "dense"):
        return torch.ones(delta.shape, dtype=torch.bool)
    ones = torch.ones_like(delta.tensors["values"])
    return type(delta)(**{**vars(delta), "values": ones}).dense() != 0


def dense(adapter: SparseAdapter, layer: str = QKV) -> Tensor:
    weights = [d for d in adapter.deltas if d.layer == layer and not isinstance(d, BiasDelta)]
    return weights[0].dense() if weights else torch.zeros(())


@given(
    kind=st.sampled_from(WEIGHTS),
    mask_kind=st.sampled_from(WEIGHTS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
def test_values_inside_the_mask_stay_and_others_go(
    kind: str, mask_kind: str, dtype: torch.dtype, seed: int
) -> None:
    delta, mask = make(kind, seed, dtype=dtype), make(mask_kind, seed + 1, dtype=dtype)
    seen = through_mask(adapter_of(delta), adapter_of(mask))
    expected = delta.dense() * mask_of(mask)
    assert torch.equal(dense(seen), expected)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_an_adapter_through_its_own_mask_is_itself(kind: str) -> None:
    adapter = adapter_of(make(kind, 1))
    assert torch.equal(dense(through_mask(adapter, adapter)), dense(adapter))


def test_layers_that_the_mask_leaves_alone_are_left_out_with_their_base() -> None:
    both = adapter_of(make("element", 1), make("element", 2, GATE_UP))
    seen = through_mask(both, adapter_of(make("dense", 3)))
    assert (seen.layers, set(seen.base)) == ((QKV,), {QKV})


def test_a_bias_goes_through_where_the_mask_has_one() -> None:
    bias, weight = make("bias", 1), make("element", 2)
    adapter = adapter_of(bias, weight)
    assert through_mask(adapter, adapter_of(weight)).kinds == ("element",)
    assert through_mask(adapter, adapter_of(make("bias", 5))).kinds == ("bias",)


def test_disjoint_masks_leave_an_adapter_that_changes_nothing() -> None:
    first, second = adapter_of(make("element", 1)), adapter_of(make("element", 2, GATE_UP))
    seen = through_mask(first, second)
    assert (seen.deltas, seen.nnz) == ((), 0)

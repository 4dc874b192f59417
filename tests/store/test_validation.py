"""The gate: every refusal names the layer, the field and the value."""
# ruff: noqa: E501 - one case, one row

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from store_factories import (
    BASE,
    DOWN,
    GATE_UP,
    LIMITS,
    QKV,
    adapter_of,
    adapters,
    bias,
    block,
    change,
    dense,
    element,
    low_rank,
    random,
    strided_block,
)

from adapters_store.adapter import BaseIdentity, BaseLayer, ElementDelta, SparseAdapter
from adapters_store.errors import MAX_REASON_CHARS, MAX_REASONS, AdapterRefused, AdapterTooLarge
from adapters_store.validation import check

F32 = torch.float32


def _reasons(adapter: SparseAdapter, base: BaseIdentity = BASE) -> tuple[str, ...]:
    with pytest.raises(AdapterRefused) as caught:
        check(adapter, base, LIMITS)
    return caught.value.reasons


def _with(tensor: torch.Tensor, at: int, value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[at] = value
    return changed


def _int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


ELEMENT = element(QKV, F32, random(1))
BLOCK = block(QKV, F32, random(1))
STRIDED = strided_block(QKV, F32, random(1))
LOW_RANK = low_rank(QKV, F32, random(1))
DENSE = dense(QKV, F32, random(1))
BIAS = bias(QKV, F32, random(1))
LENGTH = len(ELEMENT.indices)
TILES = len(BLOCK.block_index)

# Delta, fields that are made wrong, what the reason must say.
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "scale zero": (ELEMENT, {"scale": 0.0}, "scale: 0.0 is not finite and non-zero"),
    "scale nan": (LOW_RANK, {"scale": math.nan}, "scale: nan"),
    "scale infinite": (BLOCK, {"scale": -math.inf}, "scale: -inf"),
    "scale over fp32": (DENSE, {"scale": 1e300}, "scale: 1e+300"),
    "scale under fp32": (BIAS, {"scale": 1e-60}, "scale: 1e-60"),
    "shape of another layer": (ELEMENT, {"shape": (16, 48)}, "shape: [16, 48], but the base has [48, 16]"),
    "shape transposed dense": (DENSE, {"shape": (16, 48)}, "delta: has shape [48, 16], expected [16, 48]"),
    "shape without entries": (BLOCK, {"shape": (0, 0)}, "shape: [0, 0] has no entries"),
    "element indices int64": (ELEMENT, {"indices": ELEMENT.indices.long()}, "indices: has dtype int64, expected int32"),
    "element indices float": (ELEMENT, {"indices": ELEMENT.values}, "indices: has dtype float32, expected int32"),
    "element indices matrix": (ELEMENT, {"indices": ELEMENT.indices[None]}, f"indices: has shape [1, {LENGTH}]"),
    "element values fp64": (ELEMENT, {"values": ELEMENT.values.double()}, "values: has dtype float64"),
    "element values scalar": (ELEMENT, {"values": torch.tensor(1.0)}, "values: has shape []"),
    "element empty": (ELEMENT, {"indices": _int32(), "values": torch.zeros(0)}, "indices: is empty"),
    "element one value less": (ELEMENT, {"values": ELEMENT.values[1:]}, f"values: has {LENGTH - 1} entries, but indices has {LENGTH}"),
    "element unsorted": (ELEMENT, {"indices": ELEMENT.indices.flip(0)}, "indices: [1] ="),
    "element repeated": (ELEMENT, {"indices": _int32(4, 4), "values": torch.ones(2)}, "indices: [1] = 4 repeats the entry before it"),
    "element negative": (ELEMENT, {"indices": _with(ELEMENT.indices, 0, -1)}, "indices: [0] = -1 is outside [0, 768)"),
    "element past the end": (ELEMENT, {"indices": _with(ELEMENT.indices, -1, 768)}, f"indices: [{LENGTH - 1}] = 768 is outside [0, 768)"),
    "element nan": (ELEMENT, {"values": _with(ELEMENT.values, 7, math.nan)}, "values: 1 values are not finite, the first is [7] = nan"),
    "element infinite": (ELEMENT, {"values": torch.full((LENGTH,), math.inf)}, f"values: {LENGTH} values are not finite, the first is [0] = inf"),
    "block zero": (BLOCK, {"block": (0, 8)}, "block: 0 rows do not divide the weight's 48"),
    "block negative": (BLOCK, {"block": (4, -8)}, "block: -8 columns do not divide the weight's 16"),
    "block not dividing": (BLOCK, {"block": (5, 8)}, "block: 5 rows do not divide the weight's 48"),
    "block stride zero": (BLOCK, {"row_stride": 0}, "row_stride: 0 is not one of [1, 3]"),
    "block stride other": (BLOCK, {"row_stride": 2}, "row_stride: 2 is not one of [1, 3]"),
    "block over stride groups": (STRIDED, {"block": (6, 8)}, "block: 6 rows do not divide the 16 rows of a stride group"),
    "block index int64": (BLOCK, {"block_index": BLOCK.block_index.long()}, "block_index: has dtype int64, expected int32"),
    "block values flat": (BLOCK, {"values": BLOCK.values.flatten()}, "values: has shape [192], expected 3 dimensions"),
    "block values transposed": (BLOCK, {"values": BLOCK.values.mT}, f"values: has shape [{TILES}, 8, 4], expected [{TILES}, 4, 8]"),
    "block one tile less": (BLOCK, {"values": BLOCK.values[1:]}, f"values: has shape [{TILES - 1}, 4, 8]"),
    "block empty": (BLOCK, {"block_index": _int32(), "values": torch.zeros(0, 4, 8)}, "block_index: is empty"),
    "block past the end": (BLOCK, {"block_index": _with(BLOCK.block_index, -1, 24)}, f"block_index: [{TILES - 1}] = 24 is outside [0, 24)"),
    "block unsorted": (BLOCK, {"block_index": BLOCK.block_index.flip(0)}, "block_index: [1] ="),
    "block nan": (BLOCK, {"values": _with(BLOCK.values, 9, math.nan)}, "values: 1 values are not finite, the first is [9] = nan"),
    "low rank without rank": (LOW_RANK, {"a": torch.zeros(0, 16), "b": torch.zeros(48, 0)}, "lora_A: has rank 0"),
    "low rank swapped": (LOW_RANK, {"a": LOW_RANK.a.T}, "lora_A: has shape [16, 3], expected [16, 16]"),
    "low rank ranks differ": (LOW_RANK, {"b": LOW_RANK.b[:, 1:]}, "lora_B: has shape [48, 2], expected [48, 3]"),
    "low rank A flat": (LOW_RANK, {"a": LOW_RANK.a.flatten()}, "lora_A: has shape [48], expected 2 dimensions"),
    "low rank B of integers": (LOW_RANK, {"b": LOW_RANK.b.int()}, "lora_B: has dtype int32"),
    "low rank A nan": (LOW_RANK, {"a": _with(LOW_RANK.a, 0, math.nan)}, "lora_A: 1 values are not finite"),
    "low rank B infinite": (LOW_RANK, {"b": _with(LOW_RANK.b, 0, math.inf)}, "lora_B: 1 values are not finite"),
    "dense shape": (DENSE, {"delta": DENSE.delta.T}, "delta: has shape [16, 48], expected [48, 16]"),
    "dense fp64": (DENSE, {"delta": DENSE.delta.double()}, "delta: has dtype float64"),
    "dense nan": (DENSE, {"delta": _with(DENSE.delta, 3, math.nan)}, "delta: 1 values are not finite"),
    "bias shape": (BIAS, {"bias": BIAS.bias[1:]}, "bias_delta: has shape [47], expected [48]"),
    "bias fp64": (BIAS, {"bias": BIAS.bias.double()}, "bias_delta: has dtype float64"),
    "bias nan": (BIAS, {"bias": _with(BIAS.bias, 3, math.nan)}, "bias_delta: 1 values are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_malformed_delta_is_refused_by_layer_field_and_value(case: str) -> None:
    delta, fields, expected = WRONG[case]
    reasons = _reasons(change(delta, **fields))
    assert any(reason.startswith(f"{QKV}: {expected}") for reason in reasons), reasons


@given(adapters())
def test_well_formed_adapter_of_every_kind_passes(adapter: SparseAdapter) -> None:
    check(adapter, BASE, LIMITS)


def test_indices_are_int64_exactly_where_int32_cannot_count_the_entries() -> None:
    def adapter(shape: tuple[int, int], dtype: torch.dtype) -> tuple[SparseAdapter, BaseIdentity]:
        last = torch.tensor([shape[0] * shape[1] - 1], dtype=dtype)
        delta = ElementDelta(layer="big", shape=shape, indices=last, values=torch.ones(1))
        base = BaseIdentity("big", {"big": BaseLayer(shape, "d")})
        return SparseAdapter("big", {"big": "d"}, (delta,)), base

    check(*adapter((2**16, 2**15), torch.int32), LIMITS)
    check(*adapter((2**16, 2**15 + 1), torch.int64), LIMITS)
    assert "expected int32" in _reasons(*adapter((2**16, 2**15), torch.int64))[0]
    wrapped, base = adapter((2**16, 2**15 + 1), torch.int64)
    delta: Any = wrapped.deltas[0]
    narrow = replace(wrapped, deltas=(replace(delta, indices=_int32(1)),))
    assert "expected int64" in _reasons(narrow, base)[0]


Vary = Callable[[SparseAdapter], SparseAdapter]
WHOLE: dict[str, tuple[Vary, str]] = {
    "no deltas": (lambda it: SparseAdapter("b", {}, ()), "deltas: there are none"),
    "digest missing": (lambda it: replace(it, base={}), f"{QKV}: base digest: missing"),
    "digest of a layer not touched": (
        lambda it: replace(it, base={**it.base, DOWN: BASE.layers[DOWN].digest}),
        f"{DOWN}: base digest of a layer that no delta touches",
    ),
    "another base": (
        lambda it: replace(it, base={QKV: f"sha256:{'f' * 64}"}),
        f"{QKV}: base digest: the file is for another base: sha256:ffffffff..., not sha256:aaaaaaaa...",
    ),
    "two weight deltas": (
        lambda it: replace(it, deltas=(BLOCK, ELEMENT)),
        f"{QKV}: more than one weight delta: block, element",
    ),
    "two biases": (
        lambda it: replace(it, deltas=(BIAS, BIAS)),
        f"{QKV}: more than one bias delta: bias, bias",
    ),
    "unsorted layers": (
        lambda it: replace(it, deltas=(ELEMENT, element(GATE_UP, F32, random(1)))),
        f"deltas: not sorted by layer and kind, at {GATE_UP} (element)",
    ),
    "unsorted kinds": (
        lambda it: replace(it, deltas=(ELEMENT, BIAS)),
        f"deltas: not sorted by layer and kind, at {QKV} (bias)",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_adapter_that_does_not_hold_together_is_refused(case: str) -> None:
    vary, expected = WHOLE[case]
    assert expected in _reasons(vary(adapter_of(ELEMENT)))


def test_every_unknown_layer_is_listed() -> None:
    deltas = tuple(replace(ELEMENT, layer=name) for name in ("x.1", "x.2"))
    reasons = _reasons(SparseAdapter("b", {"x.1": "d", "x.2": "d"}, deltas))
    assert reasons == tuple(
        f"{name}: layer: unknown to the base 'tiny-base'" for name in ("x.1", "x.2")
    )


def test_all_reasons_of_all_deltas_are_given() -> None:
    wrong = change(ELEMENT, scale=0.0, values=_with(ELEMENT.values, 0, math.nan))
    other = replace(block(GATE_UP, F32, random(1)), row_stride=5, block=(5, 8))
    both = replace(wrong, deltas=(other, *wrong.deltas), base={QKV: wrong.base[QKV]})
    found = _reasons(both)
    assert len(found) == 5
    with ThreadPoolExecutor(2) as pool, pytest.raises(AdapterRefused) as caught:
        check(both, BASE, LIMITS, pool.map)
    assert caught.value.reasons == found, "the same, in order, whoever finds them"


def test_reasons_are_bounded_in_number_and_length() -> None:
    layers = [f"{'x' * 1000}{i:03}" for i in range(MAX_REASONS + 5)]
    deltas = tuple(
        replace(ELEMENT, layer=layer, indices=ELEMENT.indices[:1], values=ELEMENT.values[:1])
        for layer in layers
    )
    reasons = _reasons(SparseAdapter("b", dict.fromkeys(layers, "d"), deltas))
    assert len(reasons) == MAX_REASONS + 1
    assert max(map(len, reasons)) == MAX_REASON_CHARS
    assert reasons[-1] == "and 5 more"


def test_limit_counts_stored_numbers() -> None:
    adapter = adapter_of(LOW_RANK, BIAS)
    stored = LOW_RANK.a.numel() + LOW_RANK.b.numel() + BIAS.bias.numel()
    check(adapter, BASE, replace(LIMITS, max_nnz=stored))
    with pytest.raises(AdapterTooLarge) as caught:
        check(adapter, BASE, replace(LIMITS, max_nnz=stored - 1))
    assert (caught.value.what, caught.value.found, caught.value.limit) == (
        "entries",
        stored,
        stored - 1,
    )

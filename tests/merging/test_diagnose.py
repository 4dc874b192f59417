"""A diagnosis counts what the definitions say, whatever the kinds, panels and weights."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging.naive_diagnosis import Naive
from store_factories import BASE, DOWN, GATE_UP, MAKERS, QKV, adapter_of, random

from adapters_store.adapter import ElementDelta, SparseAdapter, WeightDelta
from adapters_store.errors import BaseMismatch
from adapters_store.merging import diagnose as diagnosing
from adapters_store.merging.diagnose import (
    Diagnosis,
    diagnose,
    diagnose_layer,
    most_meetings,
    row_ranges,
)
from adapters_store.merging.diagnostics.report import counts_json, report
from adapters_store.merging.reader import MemoryReader

PARTS = {
    "self_attn.q_proj": ("self_attn.qkv_proj", 0, 24),
    "self_attn.k_proj": ("self_attn.qkv_proj", 24, 12),
    "self_attn.v_proj": ("self_attn.qkv_proj", 36, 12),
    "mlp.gate_proj": ("mlp.gate_up_proj", 0, 16),
    "mlp.up_proj": ("mlp.gate_up_proj", 16, 16),
}
SHAPE = (4, 8)


def elements(places: Sequence[int], values: Sequence[float], scale: float = 1.0) -> ElementDelta:
    """Single entries of a 4 x 8 layer."""
    indices, numbers = torch.tensor(places, dtype=torch.int32), torch.tensor(values)
    return ElementDelta(layer="x", shape=SHAPE, scale=scale, indices=indices, values=numbers)


def numbers(*deltas: WeightDelta | None, weights: Sequence[float] = ()) -> dict[str, Any]:
    """What a report says of one layer."""
    return counts_json(diagnose_layer(deltas, weights or [1.0] * len(deltas)).counts)


def told(adapters: Sequence[SparseAdapter], weights: Sequence[float] = ()) -> Diagnosis:
    return diagnose([MemoryReader(a) for a in adapters], weights or [1.0] * len(adapters), PARTS)


def assert_close(found: Mapping[str, Any], expected: Mapping[str, float]) -> None:
    given = {name: math.nan if found[name] is None else found[name] for name in expected}
    assert given == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def assert_like(found: dict[str, Any], naive: Naive) -> None:
    count = len(naive.masks)
    assert_close(found, naive.whole())
    assert found["overlap_histogram"] == naive.histogram()
    for i in range(count):
        assert_close(found["members"][i], naive.member(i))
    pairs = list(combinations(range(count), 2))
    assert [row["members"] for row in found["pairs"]] == [list(pair) for pair in pairs]
    for row, pair in zip(found["pairs"], pairs, strict=True):
        assert_close(row, naive.pair(*pair))


WEIGHT_KINDS = [make for name, make in MAKERS.items() if name != "bias"]
WEIGHTS = st.sampled_from([1.0, 0.5, -1.0, 0.0, -2.25])


@st.composite
def layer_members(draw: st.DrawFn) -> list[tuple[WeightDelta | None, float]]:
    """Members of one layer, of any kinds and dtypes; some leave it alone, not all do."""
    layer = draw(st.sampled_from([QKV, GATE_UP, DOWN]))
    dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
    members: list[tuple[WeightDelta | None, float]] = []
    for _ in range(draw(st.integers(1, 5))):
        make = draw(st.none() | st.sampled_from(WEIGHT_KINDS))
        source = random(draw(st.integers(0, 3)))  # few, so that members may be the same
        members.append((make and make(layer, draw(dtypes), source), draw(WEIGHTS)))
    if all(delta is None for delta, _ in members):
        members.append((MAKERS["element"](layer, torch.float32, random(0)), 1.0))
    return members


@settings(deadline=None, max_examples=60)
@given(layer_members(), st.sampled_from([1, 7, 40, 10_000]))
def test_every_number_is_what_its_definition_says(
    members: list[tuple[WeightDelta | None, float]], panel_places: int
) -> None:
    deltas, weights = [delta for delta, _ in members], [weight for _, weight in members]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosing, "PANEL_PLACES", panel_places)
        found = diagnose_layer(deltas, weights, PARTS)
    assert_like(counts_json(found.counts), Naive(deltas, weights, slice(None)))
    ranges = [part for part in row_ranges(found.layer, found.shape[0], PARTS) if part[0]]
    assert list(found.parts) == [name for name, _, _ in ranges]
    for name, first, end in ranges:
        naive = Naive(deltas, weights, slice(first, end))
        assert_like(counts_json(found.parts[name]), naive)


def test_twenty_random_masks_cover_and_overlap_as_chance_has_it() -> None:
    shape, density, count = (256, 192), 0.1, 20
    deltas = []
    for seed in range(count):
        mask = torch.rand(shape[0] * shape[1], generator=random(seed)) < density
        indices = mask.nonzero().flatten().int()
        values = torch.randn(len(indices), generator=random(seed + count))
        deltas.append(ElementDelta(layer="x", shape=shape, indices=indices, values=values))
    counts = diagnose_layer(deltas, [1.0] * count).counts
    assert counts.coverage == pytest.approx(1 - (1 - density) ** count, abs=0.005)  # 0.878
    assert counts.mean_overlap == pytest.approx(2.28, abs=0.02)
    pairs = counts.lift[~torch.eye(count, dtype=torch.bool).numpy()]
    assert pairs.mean() == pytest.approx(1.0, abs=0.02)
    assert counts.pair_conflict[0, 1] == pytest.approx(0.5, abs=0.1)


def test_one_member_meets_nobody() -> None:
    found = numbers(elements([1, 5, 30], [1.0, -2.0, 0.0]))
    assert (found["coverage"], found["mean_overlap"], found["contested"]) == (3 / 32, 1.0, 0)
    assert (found["sign_conflict"], found["pairs"], found["overlap_histogram"]) == (None, [], [3])
    [member] = found["members"]
    assert (member["kept_mass"], member["distortion"], member["outside_energy"]) == (1, 0, 0)


def test_disjoint_members_keep_everything_and_spill_into_each_other() -> None:
    found = numbers(elements([0, 1], [1.0, 1.0]), elements([2, 3], [1.0, -1.0]))
    [pair] = found["pairs"]
    assert (pair["shared"], pair["jaccard"], pair["lift"], pair["cosine"]) == (0, 0, 0, 0)
    assert (pair["sign_conflict"], pair["cosine_shared"]) == (None, None)
    for member in found["members"]:
        assert (member["kept_mass"], member["distortion"]) == (1, 0)
        assert member["outside_energy"] == 0.5


def test_identical_members_halve_each_other_and_change_nothing() -> None:
    delta = elements([3, 9], [1.0, -4.0], scale=0.5)
    found = numbers(delta, delta)
    [pair] = found["pairs"]
    assert (pair["jaccard"], pair["overlap"], pair["lift"]) == (1, 1, 16)
    assert (pair["cosine"], pair["norm_ratio"], pair["sign_conflict"]) == (pytest.approx(1), 1, 0)
    assert [row["distortion"] for row in found["members"]] == [0, 0]
    assert [row["kept_mass"] for row in found["members"]] == [0.5, 0.5]


def test_negated_member_conflicts_where_it_is_not_zero() -> None:
    delta = elements([0, 1, 2, 3], [1.0, 2.0, 3.0, 0.0])
    found = numbers(delta, delta, weights=[1.0, -1.0])
    [pair] = found["pairs"]
    assert (found["sign_conflict"], pair["sign_conflict"]) == (0.75, 0.75)
    assert pair["cosine"] == pytest.approx(-1)
    assert [row["distortion"] for row in found["members"]] == [1, 1]
    assert [row["outside_energy"] for row in found["members"]] == [None, None]  # nothing is left


def test_pooled_ratios_are_of_pooled_counts() -> None:
    """A large layer without overlap and a small one of nothing else: no mean of 0 and 1."""
    make = MAKERS["element"]
    one = adapter_of(make(QKV, torch.float32, random(0)), make(DOWN, torch.float32, random(1)))
    other = adapter_of(make(QKV, torch.float32, random(0)))
    diagnosis = told([one, other])
    pooled, [down, qkv] = diagnosis.pooled, sorted(diagnosis.layers, key=lambda x: x.shape)
    assert (qkv.layer, down.layer) == (QKV, DOWN)
    shared, alone = 48 * 16 // 4, 16 * 24 // 4
    assert pooled.jaccard[0, 1] == shared / (shared + alone)
    assert pooled.coverage == 0.25
    assert pooled.lift[0, 1] == shared / qkv.counts.expected[0, 1]
    assert down.counts.nnz.tolist() == [alone, 0]


def test_parts_pool_over_layers_of_all_depths() -> None:
    made = [adapter_of(MAKERS["element"](QKV, torch.float32, random(seed))) for seed in (0, 1)]
    diagnosis = told(made)
    assert list(diagnosis.parts) == ["q_proj", "k_proj", "v_proj"]
    assert sum(part.places for part in diagnosis.parts.values()) == 48 * 16
    assert sum(part.covered for part in diagnosis.parts.values()) == diagnosis.pooled.covered


def test_biases_are_named_and_not_measured() -> None:
    only_bias = adapter_of(MAKERS["bias"](DOWN, torch.float32, random(0)))
    other = adapter_of(MAKERS["element"](QKV, torch.float32, random(0)))
    diagnosis = told([only_bias, other])
    assert [layer.layer for layer in diagnosis.layers] == [QKV]
    assert diagnosis.unmeasured_biases == (DOWN,)
    assert told([only_bias]).layers == ()


def test_members_for_different_weights_are_refused() -> None:
    one = adapter_of(MAKERS["element"](QKV, torch.float32, random(0)))
    other = SparseAdapter(BASE.name, {QKV: f"sha256:{'f' * 64}"}, one.deltas)
    with pytest.raises(BaseMismatch, match=QKV):
        told([one, other])


def test_most_meetings_bound_those_there_are() -> None:
    makers = ("element", "block", "low rank", "element")
    made = [
        MemoryReader(adapter_of(MAKERS[kind](QKV, torch.float32, random(seed))))
        for seed, kind in enumerate(makers)
    ]
    assert most_meetings(made[:1]) == 0
    assert most_meetings(made) == 6 * 48 * 16 // 4
    shared = diagnose(made, [1.0] * 4, PARTS).pooled.shared
    assert shared[np.triu_indices(4, 1)].sum() < most_meetings(made)
    assert most_meetings([made[0]] * 2) == shared[0, 0]


def test_report_lists_layers_by_depth_and_nothing_that_json_lacks() -> None:
    names = ["model.layers.10.x", "model.layers.2.x"]
    base = dict.fromkeys(names, "sha256:0")
    deltas = tuple(
        ElementDelta(layer=name, shape=(2, 2), indices=torch.tensor([0]), values=torch.ones(1))
        for name in names
    )
    diagnosis = told([SparseAdapter("b", base, deltas)])
    said = report(diagnosis, [{"id": "a"}], ())
    assert [layer["layer"] for layer in said["layers"]] == names[::-1]
    assert (said["verdict"], said["bytes"], said["members"]) == ("ok", 16, [{"id": "a"}])
    assert said["pooled"]["sign_conflict"] is None

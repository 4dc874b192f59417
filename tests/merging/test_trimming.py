"""Trimming by magnitude and by draws: exact counts, ties by place, the same wherever computed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge_members import LAYER, SHAPE, Draft, drafts
from merging import dense_reference

from adapters_store.adapter import DenseDelta, ElementDelta, WeightDelta
from adapters_store.canonical import round_to_fp32
from adapters_store.merging.bands import adapter_band
from adapters_store.merging.choosing import draw
from adapters_store.merging.layer import LayerInput, merge_layer, statistics
from adapters_store.merging.table import resolve_parameters
from adapters_store.merging.trims import draw_key

NUMEL = SHAPE[0] * SHAPE[1]

pytestmark = pytest.mark.usefixtures("panel_size")


def prune(delta: WeightDelta, parameters: dict[str, Any], **how: Any) -> ElementDelta | None:
    told = resolve_parameters("magnitude_prune", parameters)
    one = [LayerInput("a", 1.0, delta)]
    merged = merge_layer(
        "magnitude_prune", told, one, layer=delta.layer, shape=delta.shape, form="element", **how
    )
    assert merged is None or isinstance(merged, ElementDelta)
    return merged


def dense(values: torch.Tensor, layer: str = LAYER) -> DenseDelta:
    return DenseDelta(layer=layer, shape=SHAPE, delta=values.view(SHAPE))


@given(
    drafts(st.sampled_from(["element", "block", "dense", "low_rank"])),
    st.floats(0, 1, exclude_min=True),
    st.sampled_from(["nnz", "numel"]),
)
def test_exactly_the_share_is_kept(draft: Draft, density: float, of: str) -> None:
    delta = draft.make()
    assert delta is not None
    kept = prune(delta, {"density": density, "density_of": of})
    size = delta.nnz if of == "nnz" else NUMEL
    assert kept is not None
    assert kept.nnz == min(delta.nnz, max(1, int(density * size)))


def test_equal_magnitudes_are_kept_from_the_first_place_on() -> None:
    values = torch.ones(NUMEL)
    values[::2] = -1.0
    kept = prune(dense(values), {"density": 0.25})
    assert kept is not None
    assert kept.indices.tolist() == list(range(NUMEL // 4))


def test_trimming_a_sparse_member_of_all_places_keeps_it_whole() -> None:
    """A fifth of all places is more than a member of density 0.1 names: say what density is of."""
    draft = Draft("element", SHAPE, 3, keep_ratio=0.1)
    delta = draft.make()
    assert isinstance(delta, ElementDelta)
    whole = prune(delta, {"density": 0.2, "density_of": "numel"})
    fifth = prune(delta, {"density": 0.2, "density_of": "nnz"})
    assert whole is not None
    assert fifth is not None
    assert (whole.nnz, fifth.nnz) == (delta.nnz, int(0.2 * delta.nnz))


@given(
    st.lists(drafts(st.sampled_from(["element", "block", "low_rank"])), min_size=1, max_size=3),
    st.floats(0.01, 1),
    st.sampled_from(["nnz", "numel"]),
)
def test_ranked_over_the_adapter_keeps_what_one_long_layer_would(
    chosen: list[Draft], density: float, of: str
) -> None:
    parameters = resolve_parameters(
        "magnitude_prune", {"density": density, "density_of": of, "scope": "adapter"}
    )
    deltas = [_in_layer(draft, f"layer{i}") for i, draft in enumerate(chosen)]
    told = {"a": statistics(parameters, lambda: deltas)}
    found = [prune(delta, dict(parameters), statistics=told) for delta in deltas]

    whole = [dense_reference.dense_member("a", 1.0, delta, SHAPE) for delta in deltas]
    long = dense_reference.Member(
        "a",
        1.0,
        np.concatenate([member.values for member in whole]),
        np.concatenate([member.mask for member in whole]),
    )
    expected = dense_reference.trimmed(long, parameters).mask.reshape(len(deltas), NUMEL)
    for kept, mask in zip(found, expected, strict=True):
        assert (kept.indices.tolist() if kept else []) == np.flatnonzero(mask).tolist()


def _in_layer(draft: Draft, layer: str) -> WeightDelta:
    delta = draft.make()
    assert delta is not None
    object.__setattr__(delta, "layer", layer)
    return delta


def test_an_adapter_without_weights_has_nothing_to_rank() -> None:
    parameters = resolve_parameters("ties", {"scope": "adapter"})
    band = adapter_band(lambda: [], parameters)
    assert band.low.magnitude < 0 < band.high.magnitude


def drop(seed: int, digest: str, density: float) -> set[int]:
    one = [LayerInput(digest, 1.0, dense(torch.ones(NUMEL)))]
    told = resolve_parameters("dare_linear", {"density": density})
    merged = merge_layer(
        "dare_linear", told, one, layer=LAYER, shape=SHAPE, seed=seed, form="element"
    )
    assert isinstance(merged, ElementDelta)
    assert set(merged.values.tolist()) == {round_to_fp32(1 / density)}
    return set(merged.indices.tolist())


def test_draws_depend_on_seed_adapter_and_layer() -> None:
    assert drop(1, "a", 0.5) == drop(1, "a", 0.5)
    assert drop(1, "a", 0.5) != drop(2, "a", 0.5)
    assert drop(1, "a", 0.5) != drop(1, "b", 0.5)
    assert draw_key(1, "a", "x") != draw_key(1, "a", "y")


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_draws_keep_their_share_and_are_independent(density: float) -> None:
    """Five standard deviations around what independent draws give."""
    times = Counter(place for seed in range(50) for place in drop(seed, "a", density))
    mean = sum(times.values()) / (50 * NUMEL)
    assert abs(mean - density) < 5 * (density * (1 - density) / (50 * NUMEL)) ** 0.5
    both = len(drop(1, "a", density) & drop(2, "a", density)) / NUMEL
    assert abs(both - density**2) < 5 * (density**2 * (1 - density**2) / NUMEL) ** 0.5


def test_fewer_entries_are_kept_at_a_smaller_density_and_none_other() -> None:
    assert drop(1, "a", 0.2) < drop(1, "a", 0.6)


def test_draw_is_splitmix64() -> None:
    """The first outputs of the published generator for the seed 1234567, by its reference code."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    with np.errstate(over="ignore"):
        found = [int(draw(np.uint64(1234567), place)) for place in range(3)]
    assert found == [number >> 11 for number in published]

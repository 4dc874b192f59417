"""The form of a merged layer, what a caller may insist on, and biases."""

from typing import Any

import pytest
import torch
from merge_members import LAYER, SHAPE, Draft, inputs

from adapters_store.adapter import BiasDelta, BlockDelta
from adapters_store.delta_rules import form_reasons
from adapters_store.errors import InvalidMerge
from adapters_store.merging.layer import LayerInput, merge_bias, merge_layer
from adapters_store.merging.table import METHODS, resolve_parameters


def merge(drafts: list[Draft], method: str = "overlap_average", **how: Any) -> Any:
    given = inputs(drafts, [1.0] * len(drafts))
    parameters = resolve_parameters(method, {})
    return merge_layer(method, parameters, given, layer=LAYER, shape=SHAPE, **how)


def element(seed: int, keep_ratio: float) -> Draft:
    return Draft("element", SHAPE, seed, keep_ratio)


def block(seed: int, keep_ratio: float, row_stride: int = 3) -> Draft:
    return Draft("block", SHAPE, seed, keep_ratio, block=(4, 8), row_stride=row_stride)


@pytest.mark.parametrize(
    ("drafts", "kind"),
    [
        ([element(1, 0.1)], "element"),
        ([element(1, 0.1), element(2, 0.1)], "element"),
        ([element(1, 0.45), element(2, 0.45)], "dense"),
        ([element(1, 0.4), element(1, 0.4)], "element"),  # the same places
        ([block(1, 0.2)], "block"),
        ([block(1, 0.5), block(2, 0.5)], "block"),
        ([block(1, 1.0)], "dense"),
        ([block(1, 0.2), block(2, 0.2, row_stride=1)], "element"),
        ([block(1, 0.2), element(1, 0.1)], "element"),
        ([Draft("low_rank", SHAPE, 1)], "dense"),
    ],
)
def test_form_is_the_smallest_in_bytes(drafts: list[Draft], kind: str) -> None:
    assert merge(drafts).kind == kind


@pytest.mark.parametrize("form", ["element", "block", "dense"])
def test_result_is_a_well_formed_delta(form: str) -> None:
    merged = merge([block(1, 0.3), block(2, 0.3)], form=form)
    assert merged.kind == form
    assert not list(form_reasons(merged))
    assert (merged.layer, merged.shape, merged.scale) == (LAYER, SHAPE, 1.0)


def test_result_keeps_the_members_grid() -> None:
    merged = merge([block(1, 0.3), block(2, 0.3)])
    assert isinstance(merged, BlockDelta)
    assert (merged.block, merged.row_stride) == ((4, 8), 3)


def test_tiles_of_two_grids_make_no_tiles() -> None:
    with pytest.raises(InvalidMerge, match="form 'block'"):
        merge([block(1, 0.3), block(2, 0.3, row_stride=1)], form="block")


@pytest.mark.parametrize("form", ["element", "block", "dense"])
def test_values_beyond_fp32_are_refused(form: str) -> None:
    given = inputs([block(1, 0.3)], [3e38])
    with pytest.raises(InvalidMerge, match="overflow fp32"):
        merge_layer("linear", {}, given, layer=LAYER, shape=SHAPE, form=form)  # type: ignore[arg-type]


def test_members_and_their_tensors_are_left_alone() -> None:
    given = inputs([element(1, 0.3), block(1, 0.3)], [1.0, -1.0])
    tensors = [tensor for i in given if i.delta for tensor in i.delta.tensors.values()]
    before = [tensor.clone() for tensor in tensors]
    merge_layer("linear", {}, given, layer=LAYER, shape=SHAPE, form="dense")
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


def bias(values: list[float], scale: float = 1.0) -> BiasDelta:
    return BiasDelta(layer=LAYER, shape=(len(values), 16), scale=scale, bias=torch.tensor(values))


def merged_bias(method: str, biases: list[BiasDelta | None], **parameters: Any) -> Any:
    given = [LayerInput(str(i), 1.0, delta) for i, delta in enumerate(biases)]
    told = resolve_parameters(method, parameters)
    return merge_bias(method, told, given, layer=LAYER, shape=(3, 16))


def test_overlap_average_divides_biases_by_the_number_of_members() -> None:
    merged = merged_bias("overlap_average", [bias([3.0, 0.0, 6.0]), None, bias([0.0, 3.0, 3.0])])
    assert isinstance(merged, BiasDelta)
    assert merged.bias.tolist() == [1.0, 1.0, 3.0]
    assert merged.shape == (3, 16)


def test_other_methods_take_a_bias_as_one_row() -> None:
    merged = merged_bias("ties", [bias([4.0, 1.0, -8.0], 0.5), bias([1.0, -3.0, 2.0])], density=0.7)
    assert merged.bias.tolist() == [2.0, -3.0, -4.0]  # two of three each, the larger sign


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("metrics_weighted", "slerp")])
def test_layers_without_biases_get_none(method: str) -> None:
    assert merged_bias(method, [None, None]) is None


def test_biases_are_ranked_by_themselves() -> None:
    merged = merged_bias("magnitude_prune", [bias([1.0, 2.0, 3.0])], density=0.4, scope="adapter")
    assert merged.bias.tolist() == [0.0, 0.0, 3.0]

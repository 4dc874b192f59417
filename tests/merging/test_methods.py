"""Every merge method against its definition on dense matrices, and in every form."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from merge_members import LAYER, SHAPE, WEIGHTS, inputs, members
from merging import dense_reference

from adapters_store.adapter import ElementDelta
from adapters_store.merging.layer import (
    LayerInput,
    merge_layer,
    needs_statistics,
    statistics,
)
from adapters_store.merging.parameters import Choice, Number
from adapters_store.merging.table import METHODS, resolve_parameters

pytestmark = pytest.mark.usefixtures("panel_size")

DENSITIES = st.sampled_from([1.0, 0.5, 0.2, 0.01])
NUMBERS = {
    "lambda": st.sampled_from([1.0, 0.4, -1.5]),
    "density": DENSITIES,
    "gamma": st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    "epsilon": st.just(0.005),
    "penalty": st.sampled_from([0.0, 1.0, 2.5]),
    "t": st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    "select_topk": DENSITIES,
}


def parameters_for(method: str, count: int) -> st.SearchStrategy[dict[str, Any]]:
    choices: dict[str, st.SearchStrategy[Any]] = {}
    for parameter in METHODS[method].parameters:
        if isinstance(parameter, Number):
            choices[parameter.name] = NUMBERS[parameter.name]
        elif isinstance(parameter, Choice):
            choices[parameter.name] = st.sampled_from(parameter.choices)
        else:
            numbers = st.floats(0.1, 1000)
            choices[parameter.name] = st.lists(numbers, min_size=count, max_size=count)
    if method == "della":
        choices["density"] = st.sampled_from([1.0, 0.5, 0.2])
        choices["epsilon"] = st.sampled_from([0.0, 0.15])
    return st.fixed_dictionaries(choices).map(lambda given: resolve_parameters(method, given))


@st.composite
def cases(
    draw: st.DrawFn, method: str, least: int = 1, most: int = 5
) -> tuple[list[LayerInput], dict[str, Any]]:
    row = METHODS[method]
    least, most = max(least, row.min_members), min(most, row.max_members)
    made = draw(members(least, most))
    weights = draw(st.lists(WEIGHTS, min_size=len(made), max_size=len(made)))
    return inputs(made, weights), draw(parameters_for(method, len(made)))


def merged_and_reference(
    method: str, given: list[LayerInput], parameters: dict[str, Any], **how: Any
) -> tuple[Any, dense_reference.Merged]:
    told = {}
    if needs_statistics(parameters):
        deltas = {i.digest: [i.delta] if i.delta else [] for i in given}
        told = {
            digest: statistics(parameters, lambda only=only: only)  # type: ignore[misc]
            for digest, only in deltas.items()
        }
    merged = merge_layer(
        method, parameters, given, layer=LAYER, shape=SHAPE, seed=7, statistics=told, **how
    )
    dense = [dense_reference.dense_member(i.digest, i.weight, i.delta, SHAPE) for i in given]
    return merged, dense_reference.merge(method, parameters, dense, LAYER, 7)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, phases=[Phase.generate])
@given(data=st.data())
def test_method_is_its_dense_definition(method: str, data: st.DataObject) -> None:
    given, parameters = data.draw(cases(method))
    merged, reference = merged_and_reference(method, given, parameters)
    if merged is None:
        assert not reference.mask.any()
        return
    close(merged.dense(), reference.values)
    if isinstance(merged, ElementDelta):
        np.testing.assert_array_equal(merged.indices, np.flatnonzero(reference.mask))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "slerp"])
@settings(max_examples=3, phases=[Phase.generate])
@given(data=st.data())
def test_twenty_members_are_their_dense_definition(method: str, data: st.DataObject) -> None:
    given, parameters = data.draw(cases(method, least=20, most=20))
    merged, reference = merged_and_reference(method, given, parameters, form="dense")
    found = merged.dense() if merged else torch.zeros(SHAPE)
    close(found, reference.values)


def close(found: torch.Tensor, expected: Any) -> None:
    """Equal up to the cast to fp32 and the last bits of the sums."""
    largest = max(1e-6, float(np.abs(expected).max()))
    np.testing.assert_allclose(found.double(), expected, rtol=2e-7, atol=1e-9 * largest)

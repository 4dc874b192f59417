"""A prototype is the top right-singular vector of a delta, whatever its kind."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_factories import BASE, DOWN, MAKERS, QKV, adapter_of, adapters, bias, element, random
from torch import Tensor

from adapters_store.adapter import (
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from server.adapters.prototypes import make_prototypes, top_direction

CLOSE = 1e-6  # of |cos| to 1
WEIGHT_KINDS = sorted(MAKERS.keys() - {"bias"})
Shape = tuple[int, int]


def amplified(delta: WeightDelta, direction: Tensor) -> float:
    """How much the delta stretches `direction`, as a share of the most that it stretches any."""
    matrix = delta.dense().double()
    return float((matrix @ direction.double()).norm() / torch.linalg.matrix_norm(matrix, 2))


def assert_is_top(delta: WeightDelta) -> None:
    found = top_direction(delta)
    assert found is not None
    assert found.dtype == torch.float32
    assert abs(float(found.norm()) - 1) < CLOSE
    _, sigma, vh = torch.linalg.svd(delta.dense().double(), full_matrices=False)
    assert amplified(delta, found) > 1 - CLOSE
    if len(sigma) == 1 or sigma[0] - sigma[1] > 1e-4 * sigma[0]:
        assert abs(float(found.double() @ vh[0])) > 1 - CLOSE


def dense_of(*rows: list[float]) -> DenseDelta:
    matrix = torch.tensor(rows)
    return DenseDelta(layer=QKV, shape=(matrix.shape[0], matrix.shape[1]), delta=matrix)


@pytest.mark.parametrize(
    "delta",
    [
        dense_of([0.0, 0.0, -3.0]),
        dense_of([1.0, -1.0]),  # orthogonal to a start of ones
        dense_of([1.0, -2.0, 1.0, 0.0]),
        dense_of([1e-30, 0.0], [0.0, 2e-30]),
        dense_of([1e30, 0.0], [1e30, 1e30]),
        dense_of([1.0, 0.0, 0.0], [0.0, 1.0 - 1e-3, 0.0], [0.0, 0.0, 0.5]),
        dense_of([2.0], [1.0]),
    ],
    ids=["row", "antisymmetric", "second difference", "tiny", "huge", "close", "one input"],
)
def test_edge_deltas(delta: WeightDelta) -> None:
    assert_is_top(delta)


@pytest.mark.parametrize("kind", WEIGHT_KINDS)
@given(seed=st.integers(0, 2**31), layer=st.sampled_from(sorted(BASE.layers)))
def test_every_kind(kind: str, seed: int, layer: str) -> None:
    assert_is_top(MAKERS[kind](layer, torch.float32, random(seed)))


@pytest.mark.parametrize(("shape", "keep"), [((960, 576), 0.1), ((576, 1536), 0.01)])
def test_layers_of_the_demo_bases_size(shape: Shape, keep: float) -> None:
    places = torch.randperm(shape[0] * shape[1], generator=random(3))
    indices = places[: int(len(places) * keep)].sort().values.int()
    values = torch.randn(len(indices), generator=random(4))
    assert_is_top(ElementDelta(layer=QKV, shape=shape, indices=indices, values=values))


def test_low_rank_of_the_demo_bases_size() -> None:
    a, b = torch.randn(16, 576, generator=random(5)), torch.randn(960, 16, generator=random(6))
    assert_is_top(LowRankDelta(layer=QKV, shape=(960, 576), a=a, b=b))


@pytest.mark.parametrize(
    "delta",
    [
        dense_of([0.0, 0.0]),
        LowRankDelta(layer=QKV, shape=(4, 3), a=torch.ones(2, 3), b=torch.zeros(4, 2)),
        ElementDelta(layer=QKV, shape=(4, 3), indices=torch.zeros(0).int(), values=torch.zeros(0)),
        DenseDelta(layer=QKV, shape=(2, 2), delta=torch.ones(2, 2), scale=0.0),
    ],
    ids=["zeros", "fresh low rank", "no entries", "scale 0"],
)
def test_a_delta_that_changes_nothing_has_no_prototype(delta: WeightDelta) -> None:
    assert top_direction(delta) is None
    assert make_prototypes(adapter_of(delta)).directions == {}


def test_equal_singular_values_give_a_vector_of_their_space_always_the_same() -> None:
    delta = dense_of([0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, -2.0], [1.0, 0.0, 0.0, 0.0])
    found, again = top_direction(delta), top_direction(delta)
    assert found is not None
    assert again is not None
    assert torch.equal(found, again)
    assert amplified(delta, found) > 1 - CLOSE
    assert float(found[[0, 2]].abs().max()) < CLOSE


@given(adapter=adapters())
def test_an_adapter_always_has_the_same_prototypes(adapter: SparseAdapter) -> None:
    first, second = make_prototypes(adapter), make_prototypes(adapter)
    assert first.directions.keys() == second.directions.keys()
    assert first.directions.keys() <= {d.layer for d in adapter.deltas if d.kind != "bias"}
    for layer, direction in first.directions.items():
        assert torch.equal(direction, second.directions[layer])


def test_bias_has_no_prototype_and_bytes_are_of_the_vectors() -> None:
    weight = element(DOWN, torch.bfloat16, random(1))
    made = make_prototypes(adapter_of(weight, bias(QKV, torch.float32, random(2))))
    assert made.directions.keys() == {DOWN}
    assert made.num_bytes == 4 * BASE.layers[DOWN].shape[1]

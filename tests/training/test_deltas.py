"""Dense and sparse deltas of linear layers: their products, gradients and what they hold."""

from typing import Any

import pytest
import torch
from torch import nn
from training_models import (
    random_tiles,
)

from adapters_store.training import products
from adapters_store.training.deltas import DeltaLinear, DenseDelta, SparseDelta, take_tiles

SHAPE = (12, 8)
BLOCKS = [(1, 1), (1, 4), (4, 2), (12, 8)]


def masked_pair(block: tuple[int, int], ratio: float) -> tuple[DenseDelta, SparseDelta]:
    """The same delta, dense with a mask and sparse, in fp64."""
    tiles = random_tiles(SHAPE, ratio, block)
    torch.manual_seed(2)
    weight = torch.randn(SHAPE, dtype=torch.float64)
    dense = DenseDelta(weight)
    ones = torch.ones_like(take_tiles(weight, tiles, block))
    marks = SparseDelta(ones, tiles, SHAPE, block)
    dense.mask = marks(torch.eye(8, dtype=torch.float64)).t().detach().bool().contiguous()
    return dense, SparseDelta(take_tiles(weight, tiles, block), tiles, SHAPE, block)


@pytest.mark.parametrize("numbers_per_chunk", [1, products.NUMBERS_PER_CHUNK])
@pytest.mark.parametrize(
    ("block", "ratio"),
    [(SHAPE, 1.0), ((1, 1), 1.0), ((1, 1), 0.3), ((1, 4), 0.3), ((4, 2), 0.3), ((4, 2), 1.0)],
)
def test_sparse_delta_has_the_products_and_gradients_of_the_masked_dense_one(
    block: Any, ratio: float, numbers_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "NUMBERS_PER_CHUNK", numbers_per_chunk)
    dense, sparse = masked_pair(block, ratio)
    x, up = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    results = []
    for delta in (dense, sparse):
        own = x.clone().requires_grad_()
        y = delta(own)
        y.backward(up)
        results.append((y.detach(), own.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert dense.weight.grad is not None
    at_tiles = take_tiles(dense.weight.grad, sparse.tiles, block)
    torch.testing.assert_close(sparse.values.grad, at_tiles, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_agree_with_differences(block: Any) -> None:
    _, sparse = masked_pair(block, 1.0)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, values: torch.func.functional_call(sparse, {"values": values}, (x,)),
        (x, sparse.values),
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_sparse_delta_knows_its_tiles(block: Any) -> None:
    tiles = random_tiles(SHAPE, 1.0 if block == SHAPE else 0.3, block)
    values = take_tiles(torch.zeros(SHAPE), tiles, block)
    assert torch.equal(SparseDelta(values, tiles, SHAPE, block).tiles, tiles)


def test_delta_over_a_bf16_base_is_fp32_and_rounded_once() -> None:
    torch.manual_seed(0)
    linear = DeltaLinear(nn.Linear(8, 12, dtype=torch.bfloat16))
    assert linear.delta_dtype == torch.float32
    tiles = torch.arange(96)
    linear.delta = SparseDelta(torch.randn(96), tiles, SHAPE, (1, 1))
    x = torch.randn(5, 8, dtype=torch.bfloat16)
    exact = linear.base(x).float() + x.float() @ linear.delta.values.view(SHAPE).t()
    assert torch.equal(linear(x), exact.to(torch.bfloat16))

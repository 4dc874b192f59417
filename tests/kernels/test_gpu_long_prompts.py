"""Long prompts by a GPU's kernels, interpreted: deltas as one matrix, rows beside it untouched."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from gpu_delta_samples import MAKERS, SHAPE, bias, low_rank
from torch import Tensor

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, WeightDelta

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from interpreted_memory import Memory

from server.kernels.gpu.kernels import GpuKernels
from server.kernels.gpu.long_prompts import ranges_of
from server.kernels.gpu.operands import GpuOperand, lay_out
from server.kernels.gpu.scratch import H100_COSTS, MatrixCosts, Scratch
from server.kernels.interface import DeltaBatch

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SPARSE = [name for name in MAKERS if name.startswith(("element", "block"))]
ALWAYS = MatrixCosts(fill=0.0, entry=1e5, run=1e5, tile=1e5)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def operand(delta: WeightDelta) -> GpuOperand:
    return lay_out(delta, torch.clone)


def spread(deltas: Sequence[WeightDelta], shares: Sequence[float], dtype: torch.dtype) -> Tensor:
    scratch = Scratch(3)
    matrix = scratch.matrix(deltas[0].shape, torch.zeros(0, dtype=dtype))
    for delta, share in zip(deltas, shares, strict=True):
        scratch.add(matrix, operand(delta), share)
    return matrix


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("values", [FP32, BF16, FP16])
@pytest.mark.parametrize("name", SPARSE)
def test_matrix_is_the_sum_of_its_deltas(
    name: str, values: torch.dtype, dtype: torch.dtype
) -> None:
    deltas = [MAKERS[name](values, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    expected = 0.5 * deltas[0].dense().double() - 2.0 * deltas[1].dense().double()
    found = spread(deltas, [0.5, -2.0], dtype)
    step = 1e-6 if dtype == FP32 else 2**-7  # two roundings
    torch.testing.assert_close(found.double(), expected, rtol=step, atol=step)
    assert torch.equal(found == 0.0, expected == 0.0)


@pytest.mark.parametrize("name", SPARSE)
def test_nothing_is_read_or_written_outside(name: str, memory: Memory) -> None:
    delta, scratch = MAKERS[name](BF16, torch.Generator().manual_seed(3)), Scratch(3)
    scratch.reserve(2 * SHAPE[0] * SHAPE[1], FP32, torch.device("cpu"))
    matrix = scratch.matrix(SHAPE, torch.zeros(0))
    scratch.add(matrix, lay_out(delta, memory.placed), 1.0)
    torch.testing.assert_close(matrix, delta.dense().float())
    assert memory.num_checked > 0


@pytest.mark.parametrize("size", [None, (4, 2), (1, 16)])
def test_rows_beyond_the_first_window_are_their_own(size: tuple[int, int] | None) -> None:
    shape = (1052, 16)
    rows = torch.tensor([0, 508, 512, 1020, 1048])
    if size is None:
        long_row = torch.arange(700 * 16, 701 * 16)  # a tail
        indices = torch.cat((rows * 16 + 15, long_row)).sort().values.int()
        delta: WeightDelta = ElementDelta(
            layer="l", shape=shape, indices=indices, values=indices + 1.0
        )
    else:
        tiles = (rows // size[0] * (16 // size[1])).int()
        values = torch.arange(1.0, 1 + 5 * size[0] * size[1]).view(5, *size)
        delta = BlockDelta(layer="l", shape=shape, block=size, block_index=tiles, values=values)
    assert torch.equal(spread([delta], [1.0], FP32), delta.dense())


@pytest.mark.parametrize("activations", [FP32, BF16])
def test_long_and_short_ranges_add_what_their_pairs_mean(activations: torch.dtype) -> None:
    """Rows 1-5: two adapters; 6-8: too few; 9: base; 10-13 and 14-17: shares differ."""
    source = torch.Generator().manual_seed(4)
    deltas = [MAKERS["element"](BF16, source), MAKERS["block 16x16 strided"](FP32, source)]
    beside = [bias(FP32, source), low_rank(BF16, source)]
    numel = SHAPE[0] * SHAPE[1]
    from_four = 3.5 * 1e5 * operand(deltas[0]).arrays[-1].numel() / numel
    costs = replace(ALWAYS, fill=from_four)
    kernels, products = (GpuKernels("cpu", costs=own) for own in (costs, H100_COSTS))
    tokens = [[*range(1, 9), *range(10, 18)], [1, 2, 3, 4, 5]]
    shares = [[0.5] * 8 + [0.25] * 4 + [0.75] * 4, [-1.0] * 5]
    x = torch.randn(20, SHAPE[1], generator=source).to(activations)
    weight = torch.randn(SHAPE, generator=source).to(activations)
    batch = DeltaBatch(
        [[kernels.operand(own), kernels.operand(b)] for own, b in zip(deltas, beside, strict=True)],
        [0, 16, 21],
        torch.tensor([t for own in tokens for t in own]),
        torch.tensor([s for own in shares for s in own]),
    )
    expected = x.double() @ weight.double().T
    for own in zip(deltas, beside, tokens, shares, strict=True):
        for delta in own[:2]:
            dense = delta.dense().double()
            made = dense if isinstance(delta, BiasDelta) else x[own[2]].double() @ dense.T
            expected[own[2]] += torch.tensor(own[3], dtype=torch.float64)[:, None] * made
    found, plain = (each.linear(x, weight, batch) for each in (kernels, products))
    # In 16 bits the matrix is rounded: a little, beside deltas of the size of the weights.
    near = (1e-5, 3e-4) if activations == FP32 else (2**-7, 6e-2)
    torch.testing.assert_close(found.double(), expected, rtol=near[0], atol=near[1])
    by_products = [0, 6, 7, 8, 9, 18, 19]
    assert torch.equal(found[by_products], plain[by_products])
    for rows in ([1, 2, 3, 4, 5], [10, 11, 12, 13], [14, 15, 16, 17]):
        assert not torch.equal(found[rows], plain[rows])


def test_a_delta_that_is_small_beside_its_weight_is_not_rounded_away() -> None:
    source = torch.Generator().manual_seed(5)
    values = 1e-4 * torch.randn(SHAPE[0] * SHAPE[1], generator=source)
    indices = torch.arange(len(values), dtype=torch.int32)
    delta = ElementDelta(layer="l", shape=SHAPE, indices=indices, values=values)
    kernels = GpuKernels("cpu", costs=ALWAYS)
    x = torch.randn(8, SHAPE[1], generator=source).bfloat16()
    batch = DeltaBatch([[kernels.operand(delta)]], [0, 8], torch.arange(8), torch.ones(8))
    base = torch.zeros(8, SHAPE[0])
    assert kernels._deltas._long.add(base, x, batch) == []
    made = x.double() @ delta.dense().double().T
    assert (base - made).norm() < 0.004 * made.norm()


def test_a_router_s_shares_are_left_to_the_products() -> None:
    kernels = GpuKernels("cpu", costs=ALWAYS)
    delta = MAKERS["element"](FP32, torch.Generator().manual_seed(6))
    shares = torch.ones(8, device="meta")  # stands for a GPU's memory
    batch = DeltaBatch([[kernels.operand(delta)]], [0, 8], torch.arange(8), shares)
    base = torch.zeros(8, SHAPE[0])
    (left,) = kernels._deltas._long.add(base, torch.ones(8, SHAPE[1]), batch)
    assert (left.first, left.past) == (0, 8)
    assert not base.any()


def test_ranges_are_rows_with_the_same_adapters_in_the_same_shares() -> None:
    batch = DeltaBatch(
        [[], [], []],
        [0, 4, 4, 8],
        torch.tensor([0, 1, 2, 3, 1, 2, 3, 6]),
        torch.tensor([1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.5]),
    )
    found = [(list(own.rows), own.shares) for own in ranges_of(batch, 8)]
    assert found == [
        ([0], ((0, 1.0),)),
        ([1, 2], ((0, 1.0), (2, 0.0))),
        ([3], ((0, 2.0), (2, 0.0))),
        ([6], ((2, 0.5),)),
    ]
    assert ranges_of(DeltaBatch([[]], [0, 0], torch.arange(0), torch.zeros(0)), 0) == []


@pytest.mark.parametrize(
    ("name", "density", "tokens"),
    [
        ("element", 0.01, 301),
        ("element", 0.1, 21),
        ("block 1x16", 0.1, 601),
        ("block 16x16", 0.5, 601),
    ],
)
def test_matrix_pays_from_as_many_tokens_as_is_said(name: str, density: float, tokens: int) -> None:
    own = operand(MAKERS[name](FP32, torch.Generator().manual_seed(7)))
    numel = round(own.arrays[-1].numel() / density)
    assert H100_COSTS.pays([own], (1, numel), tokens)
    assert not H100_COSTS.pays([own], (1, numel), tokens - 3)
    assert not H100_COSTS.pays([own], (1, 1000 * numel), 10**9)
    assert not H100_COSTS.pays([], (1, numel), 10**9)


def test_the_buffer_is_one_and_as_large_as_the_largest_weight() -> None:
    kernels = GpuKernels("cpu")
    kernels.warm_up([torch.zeros(3, 4), torch.zeros(7, 5), torch.zeros(2, 2)])
    scratch = kernels._deltas._scratch
    place = scratch.matrix((7, 5), torch.zeros(0)).fill_(1.0).data_ptr()
    other = scratch.matrix((3, 4), torch.zeros(0))
    assert other.data_ptr() == place
    assert not other.any()

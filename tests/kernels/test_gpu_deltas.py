"""Products with deltas by a GPU's kernels, interpreted: every layout, ragged batches, bounds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from gpu_delta_samples import MAKERS, SHAPE, bias
from torch import Tensor

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, WeightDelta
from server.kernels.interface import DeltaBatch, Operand

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from interpreted_memory import Memory
from triton.runtime.errors import InterpreterError

from server.kernels.gpu import kernels as gpu_kernels
from server.kernels.gpu.kernels import GpuKernels
from server.kernels.gpu.operands import GpuOperand

KERNELS = GpuKernels("cpu")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def batch_of(
    deltas: Sequence[WeightDelta | None], tokens: Sequence[Sequence[int]], kernels: GpuKernels
) -> DeltaBatch:
    """A segment for each of `deltas`, with these tokens; None leaves the layer alone."""
    operands: list[list[Operand]] = [[] if d is None else [kernels.operand(d)] for d in deltas]
    flat = [token for own in tokens for token in own]
    return DeltaBatch(
        operands=operands,
        offsets=[0, *accumulate(map(len, tokens))],
        tokens=torch.tensor(flat, dtype=torch.int64),
        coefficients=torch.linspace(-1, 1, len(flat)),
    )


def truth(
    base: Tensor, x: Tensor, deltas: Sequence[WeightDelta | None], batch: DeltaBatch
) -> Tensor:
    """In fp64."""
    y = base.double()
    for segment, delta in enumerate(deltas):
        own = slice(batch.offsets[segment], batch.offsets[segment + 1])
        tokens, shares = batch.tokens[own], batch.coefficients[own].double()
        if isinstance(delta, BiasDelta):
            y[tokens] += shares[:, None] * delta.dense().double()
        elif delta is not None:
            y[tokens] += shares[:, None] * (x[tokens].double() @ delta.dense().double().T)
    return y


def assert_true(found: Tensor, expected: Tensor) -> None:
    step = {FP32: 1e-5, BF16: 2**-8, FP16: 2**-11}[found.dtype]
    torch.testing.assert_close(found.double(), expected, rtol=step, atol=5e-5)


@pytest.mark.parametrize(("values", "activations"), [(FP32, FP32), (BF16, BF16), (FP16, FP32)])
@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_multiplies_as_its_delta_means(
    name: str, values: torch.dtype, activations: torch.dtype
) -> None:
    source = torch.Generator().manual_seed(1)
    delta = MAKERS[name](values, source)
    x = torch.randn(40, SHAPE[1], generator=source).to(activations)
    tokens = [[], [39], range(3), range(3, 14), range(14, 39)]  # segments of every form
    deltas = [delta] * len(tokens)
    batch = batch_of(deltas, tokens, KERNELS)
    found = KERNELS.linear(x, torch.zeros(SHAPE).to(activations), batch)
    assert found.dtype == activations
    assert_true(found, truth(torch.zeros(40, SHAPE[0]), x, deltas, batch))


@pytest.mark.parametrize("name", ["block 16x16", "low rank, of more than a panel", "dense"])
def test_a_segment_of_more_tokens_than_any_form_takes_is_several_jobs(name: str) -> None:
    source = torch.Generator().manual_seed(8)
    delta, x = MAKERS[name](FP32, source), torch.randn(70, SHAPE[1], generator=source)
    batch = batch_of([delta], [range(70)], KERNELS)
    found = KERNELS.linear(x, torch.zeros(SHAPE), batch)
    assert_true(found, truth(torch.zeros(70, SHAPE[0]), x, [delta], batch))


def test_a_bias_of_more_rows_than_a_panel_is_spread_whole() -> None:
    delta = BiasDelta(layer="l", shape=(600, 16), bias=torch.arange(600.0))
    batch, x = batch_of([delta], [[0, 2]], KERNELS), torch.zeros(3, 16)
    found = KERNELS.linear(x, torch.zeros(600, 16), batch)
    assert_true(found, truth(torch.zeros(3, 600), x, [delta], batch))


@pytest.mark.parametrize("activations", [FP32, BF16])
def test_ragged_batch_is_the_sum_of_its_pairs(activations: torch.dtype) -> None:
    """33 adapters: of every kind, without the layer, without tokens; tokens of 0 to 33 adapters."""
    source = torch.Generator().manual_seed(2)
    names = list(MAKERS)
    deltas = [
        None if n % 11 == 5 else MAKERS[names[n % len(names)]]((FP32, BF16)[n % 2], source)
        for n in range(33)
    ]
    tokens = [[1] if n % 4 else [] if n % 8 else [1, 2, 3 + n // 8, 9] for n in range(33)]
    batch = batch_of(deltas, tokens, KERNELS)
    x = torch.randn(12, SHAPE[1], generator=source).to(activations)
    weight = torch.randn(SHAPE, generator=source).to(activations)
    base = x.double() @ weight.double().T
    found = KERNELS.linear(x, weight, batch)
    torch.testing.assert_close(
        found.double(),
        truth(base, x, deltas, batch),
        rtol=1e-5 if activations == FP32 else 2**-8,
        atol=2e-4,
    )
    untouched = [0, 10, 11]
    plain = KERNELS.linear(x, weight, None)
    assert_true(found[untouched], plain[untouched].double())


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_batch_without_a_product_is_the_base(num_tokens: int) -> None:
    x, weight = torch.ones(num_tokens, SHAPE[1]), torch.ones(SHAPE)
    for deltas, tokens in (([], []), ([None], [range(num_tokens)])):
        batch = batch_of(deltas, tokens, KERNELS)
        assert torch.equal(KERNELS.linear(x, weight, batch), KERNELS.linear(x, weight, None))


@pytest.mark.parametrize(("biases", "expected"), [((1e8, 1.0, -1e8), 0.0), ((1e8, -1e8, 1.0), 1.0)])
def test_products_of_a_token_are_added_in_the_order_of_segments(
    biases: Sequence[float], expected: float
) -> None:
    deltas = [BiasDelta(layer="l", shape=(48, 16), bias=torch.full((48,), b)) for b in biases]
    batch = DeltaBatch(
        operands=[[KERNELS.operand(delta)] for delta in deltas],
        offsets=[0, 3, 6, 9],
        tokens=torch.tensor([0, 1, 2] * 3),
        coefficients=torch.ones(9),
    )
    found = KERNELS.linear(torch.zeros(4, 16), torch.zeros(48, 16), batch)
    assert torch.equal(found[:3], torch.full((3, 48), expected))
    assert torch.equal(found[3], torch.zeros(48))


def test_a_share_of_nothing_adds_nothing_whatever_the_product() -> None:
    delta = BiasDelta(layer="l", shape=(48, 16), bias=torch.full((48,), torch.inf))
    batch = batch_of([delta], [[0, 1, 2]], KERNELS)  # shares of -1, 0 and 1
    found = KERNELS.linear(torch.zeros(3, 16), torch.zeros(48, 16), batch)
    assert found.unique(dim=1).tolist() == [[-torch.inf], [0.0], [torch.inf]]


def test_wider_weight_than_two_bytes_can_tell_is_multiplied_by_the_reference() -> None:
    indices = torch.tensor([0, 65552 + 65551], dtype=torch.int32)
    delta = ElementDelta(layer="l", shape=(2, 65552), indices=indices, values=torch.ones(2))
    assert not isinstance(KERNELS.operand(delta), GpuOperand)
    batch = batch_of([delta, delta], [[0, 1], [1]], KERNELS)
    x = torch.ones(2, 65552)
    found = KERNELS.linear(x, torch.zeros(2, 65552), batch)
    assert_true(found, truth(torch.zeros(2, 2), x, [delta, delta], batch))


@pytest.mark.parametrize("most_products", [1, 3 * 2, 7 * 2])
def test_rows_are_added_in_chunks_of_a_bounded_scratch(most_products: int) -> None:
    """Products two numbers wide, of kernels and of the reference."""
    indices = torch.tensor([0, 65552 + 65551], dtype=torch.int32)
    wide = ElementDelta(layer="l", shape=(2, 65552), indices=indices, values=torch.ones(2))
    biases = BiasDelta(layer="l", shape=(2, 65552), bias=torch.tensor([1.0, 2.0]))
    batch = batch_of([wide, biases, wide], [[0, 1, 3, 4], [1, 2, 3, 4, 5, 6], [3]], KERNELS)
    kernels = GpuKernels("cpu")
    whole = kernels._deltas._batches
    kernels._deltas._batches = replace(whole, most_products=most_products)
    x = torch.arange(1.0, 9.0)[:, None].expand(8, 65552).contiguous()
    expected = truth(torch.zeros(8, 2), x, [wide, biases, wide], batch)
    assert_true(kernels.linear(x, torch.zeros(2, 65552), batch), expected)


@pytest.mark.parametrize("num_programs", [1, 20])
@pytest.mark.parametrize("name", MAKERS)
def test_a_grid_of_any_size_does_every_item(
    name: str, num_programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "INTERPRETED_PROGRAMS", num_programs)
    kernels = GpuKernels("cpu")
    source = torch.Generator().manual_seed(3)
    delta = MAKERS[name](BF16, source)
    x = torch.randn(3, SHAPE[1], generator=source)
    batches = [batch_of([delta, delta], [[1], [0, 2]], own) for own in (kernels, KERNELS)]
    weight = torch.zeros(SHAPE)
    assert torch.equal(kernels.linear(x, weight, batches[0]), KERNELS.linear(x, weight, batches[1]))


@pytest.mark.parametrize("size", [None, (4, 2), (1, 16)])
def test_rows_beyond_the_first_window_are_their_own(size: tuple[int, int] | None) -> None:
    shape, source = (1051, 16), torch.Generator().manual_seed(6)
    if size is None:
        places = torch.tensor([0, 511 * 16, 512 * 16 + 15, 1023 * 16 + 3, 1051 * 16 - 1])
        values = torch.randn(5, generator=source)
        delta: WeightDelta = ElementDelta(
            layer="l", shape=shape, indices=places.int(), values=values
        )
    else:
        shape = (1052, 16)
        rows = torch.tensor([0, 508, 512, 1020, 1048]) // size[0]
        values = torch.randn(5, *size, generator=source)
        tiles = (rows * (16 // size[1])).int()
        delta = BlockDelta(layer="l", shape=shape, block=size, block_index=tiles, values=values)
    x = torch.randn(1, 16, generator=source)
    batch = batch_of([delta], [[0]], KERNELS)
    found = KERNELS.linear(x, torch.zeros(shape), batch)
    assert_true(found, truth(torch.zeros(1, shape[0]), x, [delta], batch))
    entries = KERNELS.entries(KERNELS.operand(delta), torch.zeros(shape))
    weight = torch.zeros(shape).flatten().index_put((entries.places,), entries.values)
    assert torch.equal(weight.view(shape), delta.dense())


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def test_what_was_not_given_is_outside(memory: Memory) -> None:
    delta = bias(FP32, torch.Generator())
    batch = batch_of([delta], [[0]], KERNELS)
    with pytest.raises(InterpreterError):
        KERNELS.linear(torch.zeros(1, SHAPE[1]), torch.zeros(SHAPE), batch)


@pytest.mark.parametrize("values", [FP32, BF16])
@pytest.mark.parametrize("name", MAKERS)
def test_nothing_is_read_or_written_outside(name: str, values: torch.dtype, memory: Memory) -> None:
    kernels = GpuKernels("cpu", memory.placed)
    source = torch.Generator().manual_seed(4)
    delta = MAKERS[name](values, source)
    x = torch.randn(31, SHAPE[1], generator=source)
    tokens = [range(9), [30], range(9, 30)]
    batch = batch_of([delta] * 3, tokens, kernels)
    found = kernels.linear(x, torch.zeros(SHAPE), batch)
    assert_true(found, truth(torch.zeros(31, SHAPE[0]), x, [delta] * 3, batch))
    assert memory.num_checked > 0


@pytest.mark.parametrize("values", [FP32, BF16])
@pytest.mark.parametrize("name", [n for n in MAKERS if n.startswith(("element", "block"))])
def test_entries_are_the_delta(name: str, values: torch.dtype) -> None:
    delta = MAKERS[name](values, torch.Generator().manual_seed(5))
    weight = torch.zeros(SHAPE)
    entries = KERNELS.entries(KERNELS.operand(delta), weight)
    assert len(entries.places) == len(entries.places.unique()) == delta.nnz
    KERNELS.write(weight, entries.places, entries.scale * entries.values)
    assert torch.equal(weight, delta.dense())

"""Recorded steps' deltas by a GPU's kernels, interpreted: any content, the same launches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gpu_delta_samples import MAKERS, SHAPE
from torch import Tensor

from adapters_store.adapter import BiasDelta, WeightDelta

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from interpreted_memory import Memory

from server.kernels.gpu.compiled import Kernel
from server.kernels.gpu.kernels import GpuKernels
from server.kernels.gpu.steps import GpuStepDeltas, PreparedDeltas, needs
from server.kernels.interface import Operand
from server.kernels.recorded import BeyondCapacity, Capacity, StepDeltas

NARROW = (48, SHAPE[1])
LAYERS = {"a": SHAPE[0], "b": SHAPE[0], "narrow": NARROW[0], "untouched": 7}
FP32, BF16 = torch.float32, torch.bfloat16
Adapter = Mapping[str, Sequence[WeightDelta]]
Pairs = Sequence[tuple[Adapter, Sequence[int], Sequence[float]]]  # adapter, tokens, shares

WORST = np.int64(-(2**40))  # as a number: outside of everything


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def narrow_bias(value: float) -> BiasDelta:
    return BiasDelta(layer="l", shape=NARROW, bias=torch.full(NARROW[:1], value))


def adapter(seed: int, dtype: torch.dtype = FP32) -> Adapter:
    """Of any kinds; few touch every layer."""
    names = list(MAKERS)
    own, other = (MAKERS[names[(seed + n) % len(names)]](dtype, source(seed)) for n in (0, 3))
    with_bias = [own, MAKERS["bias"](dtype, source(seed))] if seed % 2 else [own]
    kept: dict[str, Sequence[WeightDelta]] = {
        "a": with_bias,
        "b": [other],
        "narrow": [narrow_bias(float(seed))],
    }
    return {layer: deltas for n, (layer, deltas) in enumerate(kept.items()) if (seed + n) % 4 != 3}


def laid_out(pairs: Pairs, kernels: GpuKernels) -> list[dict[str, tuple[Operand, ...]]]:
    return [
        {layer: tuple(map(kernels.operand, deltas)) for layer, deltas in own.items()}
        for own, _, _ in pairs
    ]


def described(pairs: Pairs, kernels: GpuKernels) -> tuple[Any, list[int], Tensor, Tensor]:
    """What is told of a step: operands, offsets, tokens, coefficients."""
    offsets = [0, *np.cumsum([len(tokens) for _, tokens, _ in pairs], dtype=int).tolist()]
    tokens = torch.tensor([t for _, own, _ in pairs for t in own], dtype=torch.int64)
    shares = torch.tensor([s for _, _, own in pairs for s in own])
    return laid_out(pairs, kernels), offsets, tokens, shares


def truth(base: Tensor, x: Tensor, pairs: Pairs, layer: str) -> Tensor:
    """In fp64."""
    y = base.double()
    for own, tokens, shares in pairs:
        for delta in own.get(layer, ()):
            factors = torch.tensor(shares, dtype=torch.float32).double()[:, None]
            rows = torch.tensor(tokens, dtype=torch.int64)
            dense = delta.dense().double()
            made = dense if isinstance(delta, BiasDelta) else x[rows].double() @ dense.T
            y[rows] += factors * made
    return y


def some(tokens: Iterable[int], seed: int) -> tuple[list[int], list[float]]:
    rows = list(tokens)
    return rows, torch.rand(len(rows), generator=source(seed)).tolist()


STEPS: dict[str, Pairs] = {
    "nothing": [],
    "no token": [(adapter(0), [], [])],
    "one token": [(adapter(0), *some([15], 1))],
    "all tokens of one adapter": [(adapter(5), *some(range(16), 2))],
    "33 adapters": [(adapter(n), *some([n % 16], n)) for n in range(33)],
    "mixed": [(adapter(n, BF16), *some(range(n, 16, 3), n)) for n in range(0, 9)],
    "without a layer": [({"narrow": [narrow_bias(1.0)]}, *some([0, 7], 3)), ({}, *some([1], 4))],
    "a share of nothing": [(adapter(6), [2, 3], [0.0, 1.0])],
}
CAPACITY = Capacity(tokens=16, pairs=80, slots=120, products=200, inner=600)


def all_kinds(kernels: GpuKernels) -> frozenset[Any]:
    every = (described(pairs, kernels)[:2] for pairs in STEPS.values())
    return frozenset().union(*(needs(*own, 16)[1] for own in every))


def poisoned(deltas: StepDeltas, step: Any) -> np.ndarray:
    """Numbers of a step, where all that is not written leads outside."""
    numbers = np.full(deltas.num_numbers, WORST)
    deltas.write(numbers, *step)
    return numbers


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


@pytest.mark.parametrize("activations", [FP32, BF16])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_adds_what_its_pairs_mean_in_every_layer(
    name: str, activations: torch.dtype, memory: Memory
) -> None:
    kernels, pairs = GpuKernels("cpu", memory.placed), STEPS[name]
    step = described(pairs, kernels)
    x = torch.randn(16, SHAPE[1], generator=source(9)).to(activations)
    capacity, kinds = needs(*step[:2], 16)
    deltas = kernels.step_deltas(LAYERS, CAPACITY, kinds)
    assert isinstance(deltas, GpuStepDeltas)
    deltas._scratch.fill_(torch.nan)
    deltas.place(torch.from_numpy(poisoned(deltas, step)))
    for layer, rows in LAYERS.items():
        weight = torch.randn(rows, SHAPE[1], generator=source(8)).to(activations)
        found = kernels.linear(x, weight, deltas.layer(layer))
        expected = truth(x.double() @ weight.double().T, x, pairs, layer)
        near = 1e-5 if activations == FP32 else 2**-8
        torch.testing.assert_close(found.double(), expected, rtol=near, atol=3e-4)
    assert all(needed <= has for needed, has in zip(capacity, CAPACITY, strict=True))


def test_steps_of_any_content_make_the_same_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = GpuKernels("cpu")
    launched: list[tuple[Any, ...]] = []

    def note(kernel: Kernel, grid: Any, configuration: Any, *arguments: Any, **of: Any) -> None:
        told = [own.data_ptr() if isinstance(own, Tensor) else own for own in arguments]
        launched.append((kernel, grid, configuration, told, of))

    deltas = kernels.step_deltas(LAYERS, CAPACITY, all_kinds(kernels))
    place = torch.zeros(deltas.num_numbers, dtype=torch.int64)
    deltas.place(place)
    monkeypatch.setattr(Kernel, "launch", note)
    monkeypatch.setattr(Tensor, "new_empty", memoized(Tensor.new_zeros))
    monkeypatch.setattr(kernels._deltas, "_product", memoized(kernels._wide_product))
    x = torch.ones(16, SHAPE[1])
    weights = {layer: torch.zeros(rows, SHAPE[1]) for layer, rows in LAYERS.items()}
    found = []
    for pairs in STEPS.values():
        launched.clear()
        place.copy_(torch.from_numpy(poisoned(deltas, described(pairs, kernels))))
        for layer, weight in weights.items():
            kernels.linear(x, weight, deltas.layer(layer))
        found.append(list(launched))
    assert len(found[0]) > 4 * len(LAYERS)
    assert all(one == found[0] for one in found)


def memoized(make: Any) -> Any:
    """As a graph's pool: what is asked for in the same way lies at the same place."""
    made: dict[str, Tensor] = {}

    def find(*own: Any, **of: Any) -> Tensor:
        key = str([part.data_ptr() if isinstance(part, Tensor) else part for part in own]) + str(of)
        if key not in made:
            made[key] = make(*own, **of)
        return made[key]

    return find


def test_what_was_handed_out_for_a_layer_is_the_next_step_s_too() -> None:
    kernels, pairs = GpuKernels("cpu"), STEPS["mixed"]
    step = described(pairs, kernels)
    deltas = kernels.step_deltas(LAYERS, CAPACITY, needs(*step[:2], 16)[1])
    place = torch.from_numpy(poisoned(deltas, ([], [0], step[2][:0], step[3][:0])))
    deltas.place(place)
    layer, x = deltas.layer("a"), torch.randn(16, SHAPE[1], generator=source(9))
    assert not kernels.linear(x, torch.zeros(SHAPE), layer).any()
    place.copy_(torch.from_numpy(poisoned(deltas, step)))
    found = kernels.linear(x, torch.zeros(SHAPE), layer)
    expected = truth(torch.zeros(16, SHAPE[0]), x, pairs, "a")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("what", ["pairs", "slots", "products", "inner"])
def test_a_step_beyond_its_capacity_is_refused_before_anything_is_written(what: str) -> None:
    kernels = GpuKernels("cpu")
    step = described(STEPS["33 adapters"], kernels)
    exact, kinds = kernels.needs(*step[:2], 16)
    numbers = np.full(10**6, WORST)
    fitting = kernels.step_deltas(LAYERS, exact, kinds)
    fitting.write(numbers[: fitting.num_numbers].copy(), *step)
    less = exact._replace(**{what: getattr(exact, what) - 1})
    deltas = kernels.step_deltas(LAYERS, less, kinds)
    with pytest.raises(BeyondCapacity) as refused:
        deltas.write(numbers[: deltas.num_numbers], *step)
    assert (refused.value.what, refused.value.needed) == (what, getattr(exact, what))
    assert (numbers == WORST).all()


def test_a_kind_that_no_launch_was_made_for_is_refused() -> None:
    kernels = GpuKernels("cpu")
    step = described(STEPS["mixed"], kernels)
    exact, kinds = kernels.needs(*step[:2], 16)
    for left_out in kinds:
        deltas = kernels.step_deltas(LAYERS, exact, kinds - {left_out})
        with pytest.raises(BeyondCapacity) as refused:
            deltas.write(np.zeros(deltas.num_numbers, np.int64), *step)
        assert refused.value.what == "kinds"


def test_rows_that_a_step_has_not_are_nobody_s() -> None:
    kernels = GpuKernels("cpu")
    step = described(STEPS["one token"], kernels)
    exact, kinds = kernels.needs(*step[:2], 15)
    deltas = kernels.step_deltas(LAYERS, exact, kinds)
    with pytest.raises(AssertionError):
        deltas.write(np.zeros(deltas.num_numbers, np.int64), *step)


def test_every_tensor_of_a_layer_begins_where_kernels_were_compiled_for() -> None:
    kernels = GpuKernels("cpu")
    odd = Capacity(tokens=3, pairs=5, slots=7, products=9, inner=11)
    deltas = kernels.step_deltas(LAYERS, odd, all_kinds(kernels))
    numbers = torch.zeros(deltas.num_numbers + 1, dtype=torch.int64)
    with pytest.raises(AssertionError):
        deltas.place(numbers[1:])
    deltas.place(numbers[:-1])
    for name in LAYERS:
        own = deltas.layer(name)
        assert isinstance(own, PreparedDeltas)
        tensors = (
            own.coefficients,
            (work := own.work).tokens,
            work.starts,
            work.sums,
            work.slots,
            work.jobs,
        )
        for tensor in (*tensors, *work.launches, work.parts, work.inner, work.products):
            assert tensor.data_ptr() % 16 == 0

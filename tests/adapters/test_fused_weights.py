"""Compositions in the weights: what is multiplied, what leads back, and what a fault leaves."""

import hashlib
from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from server.adapters.composition import BASE, Composition
from server.adapters.delta import ResidentAdapter, make_resident, pair_tokens
from server.adapters.errors import RoundedAway
from server.adapters.fused import UNFUSED, FusedWeights
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.cpu.packed_numbers import numbers_of
from server.kernels.interface import Entries, Kernels, Operand
from server.kernels.reference import ReferenceKernels

SHAPES = {"a": (96, 40), "b": (67, 35), "c": (64, 64)}
SWITCHES = 1000
MAKERS: dict[str, Callable[[], Kernels]] = {
    "reference": lambda: ReferenceKernels("cpu"),
    "cpu": CpuKernels,
}


class FailingKernels(CpuKernels):
    """Fails at one call of `read` or `write`; a write has then written some of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fails_in = -1  # calls from now; never if negative

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        self._call("read")
        return super().read(weight, places)

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        half = len(places) // 2
        super().write(weight, places[:half], values[:half])
        self._call("write")
        super().write(weight, places[half:], values[half:])

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.fails_in -= 1
        if self.fails_in == -1:
            raise MemoryError("in the middle")


class Bench:
    """Weights of some layers, ten adapters, and what every weight's bits are."""

    def __init__(self, kernels: Kernels, dtype: torch.dtype = torch.float32) -> None:
        self.kernels = kernels
        source = torch.Generator().manual_seed(1)
        self.base = {
            layer: (torch.randn(shape, generator=source) * 0.1).to(dtype)
            for layer, shape in SHAPES.items()
        }
        self.weights = {layer: kernels.pack(w.clone()) for layer, w in self.base.items()}
        self.adapters = [self._adapter(seed) for seed in range(10)]
        self.fused = FusedWeights(self.weights, kernels)
        self.before, self.at = self.sha256(), self.addresses()

    def _adapter(self, seed: int) -> SparseAdapter:
        values = torch.Generator().manual_seed(seed)
        layers = [layer for at, layer in enumerate(SHAPES) if at != seed % 4]
        makers = {layer: block if seed == 3 and layer != "b" else element for layer in layers}
        deltas = [
            make(layer, torch.Generator().manual_seed(seed % 7), values)  # some share their places
            for layer, make in makers.items()
        ]
        return SparseAdapter("base", dict.fromkeys(layers, f"sha256:{seed}"), tuple(deltas))

    def members(self, composition: Composition) -> list[tuple[ResidentAdapter, float]]:
        found = {adapter.digest: adapter for adapter in self.adapters}
        return [
            (make_resident(digest, found[digest], self.kernels), coefficient)
            for digest, coefficient in composition.members
        ]

    def of(self, *weighted: tuple[int, float]) -> Composition:
        return Composition.linear([(self.adapters[at].digest, c) for at, c in weighted])

    def switch(self, composition: Composition, worst_error: float | None = None) -> None:
        self.fused.switch(composition, self.members(composition), worst_error)

    def expected(self, composition: Composition, layer: str) -> Tensor:
        """The layer's weight with the composition's deltas, summed in order in fp32."""
        weight = torch.zeros(SHAPES[layer])
        for digest, coefficient in composition.members:
            [adapter] = [each for each in self.adapters if each.digest == digest]
            for delta in adapter.deltas:
                if delta.layer == layer:
                    weight += coefficient * delta.dense()
        return (self.base[layer].float() + weight).to(self.base[layer].dtype)

    def logical(self, layer: str) -> Tensor:
        weight = self.weights[layer]
        return weight.to_dense() if weight.is_mkldnn else weight.clone()

    def sha256(self) -> dict[str, tuple[str, str]]:
        """Of every weight, as it means and as it lies."""
        return {
            layer: (_sha256(self.logical(layer)), _sha256(memory_of(weight)))
            for layer, weight in self.weights.items()
        }

    def addresses(self) -> list[int]:
        return [memory_of(weight).data_ptr() for weight in self.weights.values()]


def memory_of(weight: Tensor) -> Tensor:
    return torch.from_numpy(numbers_of(weight)) if weight.is_mkldnn else weight


def _sha256(weight: Tensor) -> str:
    return hashlib.sha256(weight.view(torch.uint8).numpy().tobytes()).hexdigest()


def element(layer: str, source: torch.Generator, values: torch.Generator) -> WeightDelta:
    shape = SHAPES[layer]
    indices = torch.randperm(shape[0] * shape[1], generator=source)[:150].sort().values.int()
    drawn = torch.randn(150, generator=values)
    return ElementDelta(layer=layer, shape=shape, scale=0.3, indices=indices, values=drawn)


def block(layer: str, source: torch.Generator, values: torch.Generator) -> WeightDelta:
    shape = SHAPES[layer]
    tiles = torch.randperm(shape[0] * shape[1] // 32, generator=source)[:6].sort().values.int()
    drawn = torch.randn(6, 4, 8, generator=values).bfloat16()
    return BlockDelta(layer=layer, shape=shape, block=(4, 8), block_index=tiles, values=drawn)


@pytest.fixture(params=MAKERS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(MAKERS[request.param]())


def compositions(bench: Bench) -> list[Composition]:
    single = [bench.of((at, 1.0)) for at in range(10)]
    return [*single, bench.of((0, 0.5)), bench.of((0, 1.0), (7, -0.7), (3, 2.0)), Composition()]


def test_the_weights_are_base_plus_deltas_while_fused(bench: Bench) -> None:
    for composition in compositions(bench):
        bench.switch(composition)
        assert bench.fused.now.composition == composition
        for layer in SHAPES:
            expected = bench.expected(composition, layer)
            torch.testing.assert_close(bench.logical(layer), expected, rtol=0, atol=3e-7)


def test_a_thousand_switches_lead_back_to_the_same_bits_at_the_same_addresses(
    bench: Bench,
) -> None:
    random, choices = Random(0), compositions(bench)
    members = {composition.digest: bench.members(composition) for composition in choices}
    for _ in range(SWITCHES):
        composition = random.choice(choices)
        bench.fused.switch(composition, members[composition.digest])
    bench.fused.undo()
    assert (bench.sha256(), bench.addresses()) == (bench.before, bench.at)
    assert bench.fused.now == UNFUSED


def test_a_switch_does_not_depend_on_what_was_fused_before(bench: Bench) -> None:
    last = bench.of((1, 1.0), (3, 0.25))
    bench.switch(last)
    directly = bench.sha256()
    for composition in compositions(bench):
        bench.switch(composition)
        bench.switch(last)
        assert bench.sha256() == directly


def test_the_same_places_are_neither_restored_nor_saved_in_between() -> None:
    bench = Bench(kernels := FailingKernels())
    first, second = bench.of((0, 1.0)), bench.of((7, 1.0))  # places of one layer are the same
    layers = [{delta.layer for delta in bench.adapters[at].deltas} for at in (0, 7)]
    assert layers == [{"b", "c"}, {"a", "b", "c"}]
    bench.switch(first)
    kernels.calls.clear()
    bench.switch(second)
    assert kernels.calls == ["read", "write", "write", "write"]


@pytest.mark.parametrize("at", range(8))
def test_a_fault_anywhere_in_a_switch_leaves_the_base(at: int) -> None:
    bench = Bench(kernels := FailingKernels())
    former, wanted = bench.of((1, 1.0)), bench.of((2, 1.0), (3, -1.0))
    bench.switch(former)
    kernels.fails_in = at
    with pytest.raises(MemoryError):
        bench.switch(wanted)
    assert bench.fused.now == UNFUSED
    assert bench.sha256() == bench.before
    bench.switch(wanted)
    assert bench.fused.now.composition == wanted
    bench.fused.undo()
    assert bench.sha256() == bench.before


@pytest.mark.parametrize("at", range(3))
def test_a_fault_while_undoing_leaves_what_the_next_try_undoes(at: int) -> None:
    bench = Bench(kernels := FailingKernels())
    bench.switch(bench.of((7, 1.0)))
    kernels.fails_in = at
    with pytest.raises(MemoryError):
        bench.fused.undo()
    bench.fused.undo()
    assert bench.sha256() == bench.before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_corrections_take_away_what_is_fused(dtype: torch.dtype) -> None:
    kernels = CpuKernels() if dtype == torch.float32 else ReferenceKernels("cpu")
    bench = Bench(kernels, dtype)
    bench.switch(bench.of((0, 1.0), (3, -0.5)))
    pairs = pair_tokens([(1, 2, bench.fused.now.corrections)])
    assert pairs is not None
    for layer, weight in bench.weights.items():
        x = torch.randn(4, SHAPES[layer][1], generator=torch.Generator().manual_seed(9)).to(dtype)
        made = kernels.linear(x, weight, pairs.for_layer(layer, x))
        expected = x.double() @ bench.base[layer].double().T
        tolerance = 2e-5 if dtype == torch.float32 else 2**-8
        differences = (made.double() - expected)[1:3].abs().max() / expected.abs().max()
        assert differences <= tolerance


def test_rounding_of_weights_of_16_bits_is_measured_before_they_are_written() -> None:
    bench = Bench(ReferenceKernels("cpu"), torch.bfloat16)
    with pytest.raises(RoundedAway) as caught:
        bench.switch(bench.of((0, 0.001)), worst_error=0.01)
    assert caught.value.error > 0.1
    assert bench.sha256() == bench.before
    bench.switch(bench.of((0, 1.0)), worst_error=0.01)
    assert bench.fused.now.composition == bench.of((0, 1.0))


def test_what_has_no_places_of_its_own_does_not_fuse(bench: Bench) -> None:
    routed = Composition.arrow(
        [(bench.adapters[0].digest, 1.0), (bench.adapters[1].digest, 1.0)], 1, None
    )
    assert "router" in str(bench.fused.refusal(routed, bench.members(routed)))
    fine = bench.of((0, 1.0), (3, 1.0))
    assert bench.fused.refusal(fine, bench.members(fine)) is None
    tied = FusedWeights({"a": bench.weights["a"]}, bench.kernels)
    assert "tied" in str(tied.refusal(fine, bench.members(fine)))


PRODUCTS: dict[str, WeightDelta] = {
    "low_rank": LowRankDelta(layer="a", shape=(96, 40), a=torch.ones(2, 40), b=torch.ones(96, 2)),
    "dense": DenseDelta(layer="a", shape=(96, 40), delta=torch.ones(96, 40)),
    "bias": BiasDelta(layer="a", shape=(96, 40), bias=torch.ones(96)),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_and_biases_do_not_fuse(bench: Bench, kind: str) -> None:
    adapter = SparseAdapter("base", {"a": "sha256:0"}, (PRODUCTS[kind],))
    resident = make_resident(adapter.digest, adapter, bench.kernels)
    composition = Composition.linear([(adapter.digest, 1.0)])
    assert "entry by entry" in str(bench.fused.refusal(composition, [(resident, 1.0)]))


class FarKernels(ReferenceKernels):
    """Of a GPU that nobody has; lays out what the host can read."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.laid_out: list[WeightDelta] = []

    def operand(self, delta: WeightDelta) -> Operand:
        assert all(own.device.type == "cpu" for own in delta.tensors.values())
        self.laid_out.append(delta)
        return super().operand(delta)

    def entries(self, operand: Operand, weight: Tensor) -> Entries:
        places = torch.zeros(5, dtype=torch.int64, device=weight.device)
        return Entries(places, torch.zeros(5, device=weight.device), 1.0)

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        return weight.flatten()[places]

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        assert places.device == values.device == weight.device


def test_what_rounding_did_on_a_device_is_laid_out_on_the_host() -> None:
    with FakeTensorMode():
        weight = torch.zeros(64, 64, dtype=torch.bfloat16, device="meta")
        entries = torch.arange(5, dtype=torch.int32)
        change = ElementDelta(layer="c", shape=(64, 64), indices=entries, values=torch.ones(5))
        kernels = FarKernels()
        adapter = ResidentAdapter("a", {"c": (kernels.operand(change),)}, 0)
        FusedWeights({"c": weight}, kernels).switch(BASE, [(adapter, 1.0)])
    assert len(kernels.laid_out) == 2

"""Products with deltas, against the fp64 meaning of the deltas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factories import DTYPES, MAKERS, QKV
from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from server.adapters.delta import ResidentAdapter, make_resident, pair_tokens
from server.kernels.interface import DeltaBatch, Kernels
from server.kernels.reference import ReferenceKernels

LAYER = "model.layers.0.self_attn.qkv_proj"
OTHER_LAYER = "model.layers.0.self_attn.o_proj"
REFERENCE = ReferenceKernels("cpu")
MakeDelta = Callable[[tuple[int, int], torch.Generator], WeightDelta]


def element(shape: tuple[int, int], source: torch.Generator, share: float = 0.3) -> ElementDelta:
    numel = shape[0] * shape[1]
    indices = torch.randperm(numel, generator=source)[: int(share * numel)].sort().values
    values = torch.randn(len(indices), generator=source)
    return ElementDelta(layer=LAYER, shape=shape, scale=0.7, indices=indices.int(), values=values)


def block(
    shape: tuple[int, int], source: torch.Generator, size: tuple[int, int], stride: int = 1
) -> BlockDelta:
    num_tiles = shape[0] * shape[1] // (size[0] * size[1])
    tiles = torch.randperm(num_tiles, generator=source)[: (num_tiles + 1) // 2].sort().values
    return BlockDelta(
        layer=LAYER,
        shape=shape,
        block=size,
        block_index=tiles.int(),
        values=torch.randn(len(tiles), *size, generator=source).to(torch.bfloat16),
        row_stride=stride,
    )


def low_rank(shape: tuple[int, int], source: torch.Generator) -> LowRankDelta:
    a = torch.randn(3, shape[1], generator=source).to(torch.float16)
    b = torch.randn(shape[0], 3, generator=source).to(torch.float16)
    return LowRankDelta(layer=LAYER, shape=shape, scale=2.0, a=a, b=b)


def dense(shape: tuple[int, int], source: torch.Generator) -> DenseDelta:
    return DenseDelta(layer=LAYER, shape=shape, delta=torch.randn(shape, generator=source))


def bias(shape: tuple[int, int], source: torch.Generator) -> BiasDelta:
    values = torch.randn(shape[0], generator=source)
    return BiasDelta(layer=LAYER, shape=shape, scale=3.0, bias=values)


DELTAS: dict[str, MakeDelta] = {
    "element": element,
    "element without entries": lambda shape, source: element(shape, source, share=0.0),
    "block 4x4": lambda shape, source: block(shape, source, (4, 4)),
    "block 1x4": lambda shape, source: block(shape, source, (1, 4)),
    "block 4x1": lambda shape, source: block(shape, source, (4, 1)),
    "block 2x2 with row stride": lambda shape, source: block(shape, source, (2, 2), stride=2),
    "low rank": low_rank,
    "dense": dense,
    "bias": bias,
}
SHAPES = st.tuples(st.sampled_from([4, 8, 24]), st.sampled_from([4, 12, 32]))


def adapter_of(*deltas: WeightDelta) -> SparseAdapter:
    base = {delta.layer: f"sha256:{'0' * 64}" for delta in deltas}
    return SparseAdapter("base", base, tuple(sorted(deltas, key=lambda d: (d.layer, d.kind))))


def true_product(x: Tensor, delta: WeightDelta) -> Tensor:
    """`scale * (D @ x)` in fp64."""
    if isinstance(delta, BiasDelta):
        return delta.dense().double().expand(len(x), -1)
    return x.double() @ delta.dense().double().T


@dataclass
class Case:
    """A weight, activations, and the composition of each token: (adapter number, coefficient)."""

    weight: Tensor
    x: Tensor
    adapters: Sequence[SparseAdapter]
    compositions: Sequence[Sequence[tuple[int, float]]]

    def batch(self, kernels: Kernels) -> DeltaBatch | None:
        resident = [make_resident(adapter.digest, adapter, kernels) for adapter in self.adapters]
        pairs = pair_tokens(
            [
                (token, 1, [(resident[number], coefficient) for number, coefficient in composition])
                for token, composition in enumerate(self.compositions)
            ]
        )
        return None if pairs is None else pairs.for_layer(LAYER, self.x)

    @property
    def truth(self) -> Tensor:
        y = self.x.double() @ self.weight.double().T
        for token, composition in enumerate(self.compositions):
            for number, coefficient in composition:
                for delta in self.adapters[number].deltas:
                    if delta.layer == LAYER:
                        row = self.x[token : token + 1]
                        y[token] += coefficient * true_product(row, delta)[0]
        return y

    @property
    def touched(self) -> Tensor:
        """Which tokens have a pair whose adapter changes this layer."""
        changing = [LAYER in adapter.layers for adapter in self.adapters]
        return torch.tensor([any(changing[n] for n, _ in own) for own in self.compositions])


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Case:
    source = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    shape = draw(SHAPES)
    own_kinds = st.sets(st.sampled_from(list(DELTAS)), max_size=2)
    kinds = draw(st.lists(own_kinds, min_size=1, max_size=5))
    adapters = [_adapter(own, shape, source) for own in kinds]
    num_tokens = draw(st.integers(1, 6))
    coefficients = st.sampled_from([-1.5, 0.0, 0.25, 1.0])
    members = st.tuples(st.sampled_from(range(len(adapters))), coefficients)
    composition = st.lists(members, max_size=3, unique_by=lambda member: member[0])
    return Case(
        weight=torch.randn(shape, generator=source).to(dtype),
        x=torch.randn(num_tokens, shape[1], generator=source).to(dtype),
        adapters=adapters,
        compositions=draw(st.lists(composition, min_size=num_tokens, max_size=num_tokens)),
    )


def _adapter(kinds: set[str], shape: tuple[int, int], source: torch.Generator) -> SparseAdapter:
    """An adapter that changes another layer, and this one where `kinds` says how."""
    deltas = {(delta := DELTAS[name](shape, source)).kind: delta for name in sorted(kinds)}
    elsewhere = BiasDelta(
        layer=OTHER_LAYER, shape=shape, bias=torch.randn(shape[0], generator=source)
    )
    return adapter_of(elsewhere, *deltas.values())


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 33])
@pytest.mark.parametrize("name", DELTAS)
def test_every_kind_of_delta_multiplies_as_it_means(
    kernels: Kernels, name: str, num_tokens: int
) -> None:
    source = torch.Generator().manual_seed(1)
    delta = DELTAS[name]((24, 12), source)
    x = torch.randn(num_tokens, 12, generator=source)
    everywhere = DeltaBatch(
        operands=[[kernels.operand(delta)]],
        offsets=[0, num_tokens],
        tokens=torch.arange(num_tokens),
        coefficients=torch.ones(num_tokens),
    )
    product = kernels.linear(x, kernels.pack(torch.zeros(24, 12)), everywhere)
    assert product.shape == (num_tokens, 24)
    torch.testing.assert_close(product.double(), true_product(x, delta), rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(case=cases())
def test_linear_adds_every_pair_of_a_mixed_batch(kernels: Kernels, case: Case) -> None:
    y = kernels.linear(case.x, kernels.pack(case.weight), case.batch(kernels))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), case.truth, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_rows_without_deltas_keep_every_bit(kernels: Kernels, case: Case) -> None:
    assert_untouched_rows_keep_every_bit(kernels, case)


@settings(deadline=None, max_examples=50)
@given(case=cases(torch.bfloat16))
def test_16_bit_rows_without_deltas_keep_every_bit(case: Case) -> None:
    assert_untouched_rows_keep_every_bit(REFERENCE, case)


def assert_untouched_rows_keep_every_bit(kernels: Kernels, case: Case) -> None:
    weight = kernels.pack(case.weight)
    plain = kernels.linear(case.x, weight, None)
    mixed = kernels.linear(case.x, weight, case.batch(kernels))
    assert torch.equal(mixed[~case.touched], plain[~case.touched])


@settings(deadline=None)
@given(case=cases(torch.bfloat16))
def test_16_bit_rows_with_deltas_are_rounded_once(case: Case) -> None:
    y = REFERENCE.linear(case.x, case.weight, case.batch(REFERENCE))
    assert y.dtype == torch.bfloat16
    error = (y.double() - case.truth).abs()[case.touched]
    half_a_step = case.truth.abs()[case.touched] * 2**-8
    fp32_error = 1e-4
    assert (error <= half_a_step + fp32_error).all()


def test_negative_coefficient_turns_the_delta_round(kernels: Kernels) -> None:
    source = torch.Generator().manual_seed(2)
    delta = element((8, 8), source)
    x = torch.randn(3, 8, generator=source)
    batch = DeltaBatch(
        operands=[[kernels.operand(delta)]],
        offsets=[0, 2],
        tokens=torch.tensor([0, 2]),
        coefficients=torch.tensor([-2.0, 0.5]),
    )
    y = kernels.linear(x, kernels.pack(torch.zeros(8, 8)), batch)
    expected = torch.tensor([[-2.0], [0.0], [0.5]]) * true_product(x, delta)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_wide_16_bit_weight_is_multiplied_whole() -> None:
    """The fp32 product goes through the weight in chunks of rows."""
    source = torch.Generator().manual_seed(3)
    weight = torch.randn(9000, 4, generator=source).to(torch.bfloat16)
    x = torch.randn(1, 4, generator=source).to(torch.bfloat16)
    shift = BiasDelta(layer=LAYER, shape=(9000, 4), bias=torch.full((9000,), 0.5))
    case = Case(weight, x, [adapter_of(shift)], [[(0, 1.0)]])
    y = REFERENCE.linear(x, weight, case.batch(REFERENCE))
    torch.testing.assert_close(y.double(), case.truth, rtol=2**-8, atol=1e-5)


def test_resident_bytes_are_those_of_the_operands(kernels: Kernels) -> None:
    source = torch.Generator().manual_seed(4)
    delta = element((8, 8), source, share=0.5)
    resident: ResidentAdapter = make_resident("only", adapter_of(delta), kernels)
    assert resident.num_bytes == kernels.operand(delta).num_bytes
    assert resident.digest == "only"


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_an_operand_are_known_before_it_is_laid_out(
    kernels: Kernels, kind: str, dtype: torch.dtype
) -> None:
    delta = MAKERS[kind](QKV, dtype, torch.Generator().manual_seed(5))
    assert kernels.operand(delta).num_bytes == kernels.operand_bytes(delta)

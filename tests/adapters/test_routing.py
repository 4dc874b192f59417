"""Arrow's shares: from a row's own input, whatever else is computed beside it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import ArrowConfig
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapters_store.adapter import DenseDelta, LowRankDelta, SparseAdapter
from adapters_store.errors import InvalidMerge
from server.adapters.composition import (
    BASE,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    ArrowRouter,
    Composition,
)
from server.adapters.delta import ResidentAdapter, TokenPairs, make_resident, pair_tokens
from server.adapters.prototypes import Prototypes, make_prototypes, top_direction
from server.adapters.routing import Mixture, RoutedMember, arrow_shares
from server.kernels.reference import ReferenceKernels

aten = torch.ops.aten
# Masks are counted, numbers read, and lists of indices copied.
WAITING = {
    aten.nonzero.default,
    aten._local_scalar_dense.default,
    aten.index.Tensor,
    aten.index_put_.default,
}
KERNELS = ReferenceKernels("cpu")
QKV, DOWN = "qkv", "down"
A, B, C = ("sha256:" + letter * 64 for letter in "abc")
Weighted = list[tuple[str, float]]


def unit_rows(count: int, width: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(drawn)


def shares(logits: Sequence[float], temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """Shares of adapters whose prototypes give one row these logits."""
    width = len(logits)
    return arrow_shares(ArrowRouter(temperature, top_k), torch.tensor([logits]), torch.eye(width))[
        0
    ]


# Compositions


@given(st.permutations([(A, 0.25), (B, -1.5), (C, 0.0)]))
def test_order_of_members_changes_nothing(weighted: Weighted) -> None:
    assert Composition.arrow(weighted, 1.0, 2) == Composition.arrow(sorted(weighted), 1.0, 2)


def test_everything_that_changes_the_answer_changes_the_digest() -> None:
    pair: Weighted = [(A, 1.0), (B, 1.0)]
    different = [
        Composition.linear(pair),
        Composition.arrow(pair, 1.0, None),
        Composition.arrow(pair, 0.5, None),
        Composition.arrow(pair, 1.0, 1),
        Composition.arrow([(A, 1.0), (C, 1.0)], 1.0, None),
        Composition.arrow([(A, 1.0), (B, 0.5)], 1.0, None),
        Composition.arrow([(A, 1.0), (B, 0.0)], 1.0, None),
        Composition.arrow([*pair, (C, 1.0)], 1.0, None),
    ]
    assert len({composition.digest for composition in different}) == len(different)


def test_what_cannot_change_the_answer_does_not_change_the_digest() -> None:
    pair: Weighted = [(A, 1.0), (B, 1.0)]
    assert Composition.arrow(pair, 1.0, 2) == Composition.arrow(pair, 1.0, None)
    assert Composition.arrow([(A, 0.5)], 0.1, 1) == Composition.linear([(A, 0.5)])
    zeros = [Composition.arrow([(A, 1.0), (B, zero)], 1.0, None) for zero in (0.0, -0.0)]
    assert zeros[0].digest == zeros[1].digest
    assert Composition.arrow([(A, 0.0), (B, -0.0)], 1.0, None) == BASE
    assert Composition.arrow([], 1.0, None) == BASE


@pytest.mark.parametrize(
    ("weighted", "temperature", "top_k", "field"),
    [
        ([(A, 1.0), (A, 1.0)], 1.0, None, "members"),
        ([(A, 1.0), (B, 1.0), (A, 0.5)], 1.0, None, "members"),
        ([(A, 1.0), (B, 1.0)], 0.0, None, "temperature"),
        ([(A, 1.0), (B, 1.0)], -1.0, None, "temperature"),
        ([(A, 1.0), (B, 1.0)], float("nan"), None, "temperature"),
        ([(A, 1.0), (B, 1.0)], float("inf"), None, "temperature"),
        ([(A, 1.0), (B, 1.0)], 1.0, 0, "top_k"),
        ([(A, 1.0), (B, 1.0)], 1.0, -1, "top_k"),
    ],
)
def test_what_cannot_be_routed_is_refused_by_name(
    weighted: Weighted, temperature: float, top_k: int | None, field: str
) -> None:
    with pytest.raises(InvalidMerge) as refused:
        Composition.arrow(weighted, temperature, top_k)
    assert refused.value.field == field


# Shares


def test_shares_are_a_softmax_of_magnitudes() -> None:
    expected = torch.tensor([1.0, 2.0, 0.0]).softmax(0)
    torch.testing.assert_close(shares([1.0, -2.0, 0.0]), expected)
    torch.testing.assert_close(shares([4.0, 8.0, 0.0], temperature=4.0), expected)


def test_top_k_leaves_the_others_out_and_ties_go_to_the_smaller_digest() -> None:
    assert shares([1.0, -3.0, 2.0], top_k=1).tolist() == [0.0, 1.0, 0.0]
    two = shares([1.0, -3.0, 2.0], top_k=2)
    torch.testing.assert_close(
        two, torch.tensor([0.0, 3.0, 2.0]).where(two > 0, -torch.inf).softmax(0)
    )
    assert shares([2.0, -2.0, 2.0, 1.0], top_k=2).tolist() == [0.5, 0.5, 0.0, 0.0]
    assert shares([0.0] * 40, top_k=1).tolist() == [1.0] + [0.0] * 39


@pytest.mark.parametrize("largest", [1.0, 1e4, 3e38])
def test_extreme_temperatures_choose_the_best_or_all_alike(largest: float) -> None:
    logits = [largest / 2, largest, 0.0]
    assert shares(logits, MIN_TEMPERATURE).tolist() == [0.0, 1.0, 0.0]
    if largest == 1.0:
        even = torch.full((3,), 1 / 3)
        torch.testing.assert_close(shares(logits, MAX_TEMPERATURE), even, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("num_members", "width"), [(2, 64), (5, 576), (3, 8192), (20, 3072)])
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_rows_shares_are_the_same_bits_in_any_company(
    num_members: int, width: int, top_k: int | None, num_threads: int
) -> None:
    router = ArrowRouter(0.7, top_k)
    directions = unit_rows(num_members, width)
    x = torch.randn(83, width, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        together = arrow_shares(router, x, directions)
        for start, end in [(0, 1), (7, 8), (82, 83), (3, 5), (10, 27), (0, 64), (19, 83)]:
            assert torch.equal(arrow_shares(router, x[start:end], directions), together[start:end])
        scattered = torch.tensor([80, 2, 41])
        assert torch.equal(arrow_shares(router, x[scattered], directions), together[scattered])
    finally:
        torch.set_num_threads(before)


# Mixtures: layers that not every member changes


def member(digest: str, layers: Sequence[str], known: Sequence[str]) -> RoutedMember:
    directions = {layer: unit_rows(1, 8, seed=ord(digest[-1]))[0] for layer in known}
    return RoutedMember(digest, set(layers), directions)


def test_members_without_a_prototype_are_no_part_of_the_softmax() -> None:
    x = unit_rows(4, 8, seed=9) * 5
    all_three = [
        member(A, [QKV, DOWN], [QKV, DOWN]),
        member(B, [QKV, DOWN], [QKV]),  # in DOWN it has a bias alone
        member(C, [QKV], [QKV]),  # DOWN it leaves alone
    ]
    mixture = Mixture(ArrowRouter(1.0, None), tuple(all_three))
    directions = torch.stack([one.directions[QKV] for one in all_three])
    expected = (x @ directions.T).abs().softmax(-1).T
    torch.testing.assert_close(mixture.shares(QKV, x), expected)
    down = mixture.shares(DOWN, x)
    assert down[:2].tolist() == [[1.0] * 4, [0.5] * 4]


def test_biases_alone_are_averaged() -> None:
    members = (member(A, [QKV], []), member(B, [QKV], []), member(C, [DOWN], [DOWN]))
    found = Mixture(ArrowRouter(1.0, 1), members).shares(QKV, torch.ones(2, 8))
    assert found[:2].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_16_bit_inputs_are_widened_first() -> None:
    members = (member(A, [QKV], [QKV]), member(B, [QKV], [QKV]))
    mixture = Mixture(ArrowRouter(1.0, None), members)
    x = unit_rows(3, 8, seed=3).bfloat16()
    found = mixture.shares(QKV, x)
    assert found.dtype == torch.float32
    assert torch.equal(found, mixture.shares(QKV, x.float()))


class OneDevice(TorchDispatchMode):
    """Lets nothing through that would wait for a device, or for a copy to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITING
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, f"{func} of the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("top_k", [None, 1])
def test_shares_wait_for_no_device(top_k: int | None) -> None:
    directions = torch.ones(8, device="meta")
    members = [RoutedMember(d, {QKV}, {QKV: directions} if d != B else {}) for d in (A, B, C)]
    mixture = Mixture(ArrowRouter(1.0, top_k), tuple(members))
    x = torch.ones(5, 8, device="meta")
    with OneDevice():  # type: ignore[no-untyped-call]
        assert mixture.shares(QKV, x).shape == (3, 5)
        assert mixture.shares(DOWN, x).shape == (3, 5)


# Pairs


def resident(digest: str, seed: int) -> tuple[ResidentAdapter, RoutedMember]:
    delta = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    dense = DenseDelta(layer=QKV, shape=(4, 8), delta=delta)
    adapter = SparseAdapter("base", {QKV: ""}, (dense,))
    laid_out = make_resident(digest, adapter, KERNELS)
    directions = make_prototypes(adapter).directions
    return laid_out, RoutedMember(digest, laid_out.operands, directions)


def listed(pairs: TokenPairs, x: Tensor) -> list[tuple[str, int, float]]:
    batch = pairs.for_layer(QKV, x)
    assert batch is not None
    spans = zip(pairs.adapters, batch.offsets, batch.offsets[1:], strict=False)
    return [
        (adapter.digest, int(batch.tokens[i]), float(batch.coefficients[i]))
        for adapter, start, end in spans
        for i in range(start, end)
    ]


def mixed_pairs(top_k: int | None) -> TokenPairs:
    """Rows 0-1: A and B routed; 2: base; 3: A alone; 4-5: all routed; 6: A and B routed again."""
    (a, of_a), (b, of_b), (c, of_c) = (resident(d, seed) for seed, d in enumerate((A, B, C)))
    two = [(a, 1.0), (b, 1.0)]
    pairs = pair_tokens([(0, 2, two), (3, 1, [(a, 0.5)]), (4, 2, [*two, (c, 1.0)]), (6, 1, two)])
    assert pairs is not None
    router = ArrowRouter(1.0, top_k)
    return pairs.with_routers(
        [(Mixture(router, (of_a, of_b)), [0, 1, 6]), (Mixture(router, (of_a, of_b, of_c)), [4, 5])]
    )


def test_routed_and_plain_pairs_of_one_adapter_share_its_segment() -> None:
    x = unit_rows(7, 8, seed=5) * 3
    found = listed(mixed_pairs(None), x)
    assert [(digest, row) for digest, row, _ in found] == [
        *((A, row) for row in (0, 1, 3, 4, 5, 6)),
        *((B, row) for row in (0, 1, 4, 5, 6)),
        *((C, row) for row in (4, 5)),
    ]
    assert (A, 3, 0.5) in found
    for row in (0, 1, 4, 5, 6):
        assert sum(c for _, token, c in found if token == row) == pytest.approx(1.0, abs=1e-6)


def test_adapters_that_top_k_leaves_out_are_not_multiplied() -> None:
    x = unit_rows(7, 8, seed=5) * 3
    found = listed(mixed_pairs(1), x)
    assert sorted(row for _, row, _ in found) == [0, 1, 3, 4, 5, 6]
    assert {c for _, row, c in found if row != 3} == {1.0}


@given(rows=st.sets(st.integers(0, 6), min_size=1), top_k=st.sampled_from([None, 1, 2]))
def test_selected_rows_keep_their_coefficients(rows: set[int], top_k: int | None) -> None:
    x, chosen = unit_rows(7, 8, seed=5) * 3, sorted(rows)
    pairs = mixed_pairs(top_k)
    expected = [(d, chosen.index(r), c) for d, r, c in listed(pairs, x) if r in rows]
    selected = pairs.select(torch.tensor(chosen))
    assert (selected is None) == (not expected)
    if selected is not None:
        assert listed(selected, x[chosen]) == expected


class NothingOfTheHost(TorchDispatchMode):
    """What it counts as elsewhere, `meta`, computes with nothing that is here."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, f"{func} of the host"
        return func(*args, **(kwargs or {}))


def test_a_devices_layers_read_nothing_of_the_host_once_shares_were_sent() -> None:
    pairs, x = mixed_pairs(1), torch.ones(7, 8, device="meta")
    for own in (known for each in pairs.routed for known in each.mixture.members):
        own.directions.update({QKV: torch.ones(8, device="meta")})  # type: ignore[attr-defined]
    sent = pairs.with_share_numbers([own.to("meta") for own in pairs.share_numbers()])
    with NothingOfTheHost():  # type: ignore[no-untyped-call]
        batch = sent.for_layer(QKV, x)
    assert batch is not None
    assert batch.tokens is pairs.tokens
    assert batch.coefficients.shape == pairs.coefficients.shape


@pytest.mark.parametrize("top_k", [None, 1])
def test_shares_are_the_same_bits_from_numbers_that_were_sent(top_k: int | None) -> None:
    pairs, x = mixed_pairs(top_k), unit_rows(7, 8, seed=5) * 3
    sent = pairs.with_share_numbers([own.clone() for own in pairs.share_numbers()])
    assert listed(sent, x) == listed(pairs, x)


def test_prototypes_are_laid_out_on_the_device() -> None:
    made = Prototypes({QKV: unit_rows(1, 8)[0]})
    placed = make_resident("p", made, KERNELS)
    assert (placed.num_bytes, placed.operands) == (32, {})
    assert torch.equal(placed.directions[QKV], made.directions[QKV])


# The library that has it


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 3), (0.3, 2), (5.0, 1)])
def test_low_rank_adapters_are_routed_as_in_peft(temperature: float, top_k: int) -> None:
    source = torch.Generator().manual_seed(8)
    deltas = [
        LowRankDelta(
            layer=QKV,
            shape=(12, 16),
            a=torch.randn(3, 16, generator=source) * torch.tensor([[6.0], [1.0], [0.5]]),
            b=torch.randn(12, 3, generator=source),
            scale=0.5,
        )
        for _ in range(4)
    ]
    names = [f"task_{i}" for i in range(len(deltas))]
    config = ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=1)
    config.task_adapter_names, config.gks_adapter_names = names, []
    theirs = ArrowLoraLinearLayer(16, config)
    factors = [
        nn.ModuleDict({name: _linear(matrix) for name, matrix in zip(names, matrices, strict=True)})
        for matrices in ([delta.a for delta in deltas], [delta.b for delta in deltas])
    ]
    x = torch.randn(20, 16, generator=source) * 2
    theirs.build_prototypes(*factors)
    expected = theirs(x, *factors, nn.Identity(), dict.fromkeys(names, 0.5)).detach()

    directions = torch.stack([v for v in map(top_direction, deltas) if v is not None])
    found = arrow_shares(ArrowRouter(temperature, top_k), x, directions)
    ours = torch.stack([x @ delta.dense().T for delta in deltas], dim=1)
    torch.testing.assert_close((found[:, :, None] * ours).sum(1), expected, rtol=1e-4, atol=1e-4)


def _linear(matrix: Tensor) -> nn.Linear:
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    linear.weight.data = matrix
    return linear

"""The rules of Eq. 4 that naive code breaks, to the bit."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge_members import LAYER, SHAPE, Draft, drafts, inputs, members
from torch import Tensor

from adapters_store.adapter import BlockDelta, ElementDelta, WeightDelta
from adapters_store.merging.layer import LayerInput, merge_layer

pytestmark = pytest.mark.usefixtures("panel_size")

SPARSE = st.sampled_from(["element", "block"])


def overlap(deltas: Sequence[WeightDelta | None], **how: Any) -> WeightDelta | None:
    given = [LayerInput(str(i), 1.0, delta) for i, delta in enumerate(deltas)]
    return merge_layer("overlap_average", {}, given, layer=LAYER, shape=SHAPE, **how)


def made(delta: WeightDelta | None) -> WeightDelta:
    assert delta is not None
    return delta


def element(entries: dict[int, float]) -> ElementDelta:
    indices = torch.tensor(sorted(entries), dtype=torch.int32)
    values = torch.tensor([entries[place] for place in sorted(entries)])
    return ElementDelta(layer=LAYER, shape=SHAPE, indices=indices, values=values)


def entries(delta: WeightDelta) -> dict[int, float]:
    assert isinstance(delta, ElementDelta)
    return dict(zip(delta.indices.tolist(), delta.values.tolist(), strict=True))


CASES: dict[str, tuple[list[dict[int, float]], dict[int, float]]] = {
    "nothing in common: the plain sum": ([{0: 1.0}, {700: 2.0}], {0: 1.0, 700: 2.0}),
    "the same mask: the plain mean": ([{3: 1.0, 9: 4.0}, {3: 3.0, 9: 0.0}], {3: 2.0, 9: 2.0}),
    "a zero in the mask counts": ([{5: 0.0}, {5: 3.0}], {5: 1.5}),
    "what cancels stays in the pattern": ([{5: 3.0, 6: 1.0}, {5: -3.0}], {5: 0.0, 6: 1.0}),
    "counted place by place": (
        [{1: 6.0, 2: 6.0}, {2: 0.0}, {2: 3.0, 3: 3.0}],
        {1: 6.0, 2: 3.0, 3: 3.0},
    ),
    "a copy changes nothing": ([{1: 0.1}, {1: 0.1}, {1: 0.1}], {1: 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_overlap_average_by_hand(case: str) -> None:
    given, expected = CASES[case]
    merged = overlap([element(member) for member in given])
    assert entries(made(merged)) == pytest.approx(expected, rel=1e-7)


@given(drafts(st.sampled_from(["element", "block", "low_rank", "dense"])), st.integers(1, 20))
def test_copies_of_one_member_are_that_member(draft: Draft, copies: int) -> None:
    delta = made(draft.make())
    merged = made(overlap([delta] * copies, form="dense")).dense()
    expected = made(overlap([delta], form="dense")).dense()
    torch.testing.assert_close(merged, expected, rtol=2e-7, atol=0)
    if draft.kind != "low_rank":  # whose product `dense` rounds otherwise
        torch.testing.assert_close(expected, delta.dense(), rtol=0, atol=0)


@given(members(), st.randoms(use_true_random=False))
def test_order_of_members_changes_no_value(chosen: list[Draft], random: Any) -> None:
    deltas = [draft.make() for draft in chosen]
    first = overlap(deltas)
    random.shuffle(deltas)
    second = overlap(deltas)
    if first is None or second is None:
        assert first is second
        return
    assert (first.kind, first.nnz) == (second.kind, second.nnz)
    torch.testing.assert_close(first.dense(), second.dense(), rtol=2e-7, atol=1e-12)


@given(members(1, 20))
def test_every_form_holds_the_same_bits(chosen: list[Draft]) -> None:
    deltas = [draft.make() for draft in chosen]
    results = [overlap(deltas, form="element"), overlap(deltas, form="dense"), overlap(deltas)]
    if all(isinstance(delta, BlockDelta) for delta in deltas):
        grids = {(d.block, d.row_stride) for d in deltas if isinstance(d, BlockDelta)}
        results += [overlap(deltas, form="block")] if len(grids) == 1 else []
    bits = [made(result).dense() if result else None for result in results]
    assert all(_same(bits[0], other) for other in bits[1:])


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


@given(st.lists(drafts(SPARSE), min_size=1, max_size=4))
def test_result_holds_the_union_of_masks(chosen: list[Draft]) -> None:
    deltas = [made(draft.make()) for draft in chosen]
    held = torch.zeros(SHAPE)
    for delta in deltas:
        # Every named place shows in a delta whose values are all 1.
        held += _ones(delta).dense()
    merged = made(overlap(deltas, form="element"))
    assert sorted(entries(merged)) == held.flatten().nonzero()[:, 0].tolist()


def _ones(delta: WeightDelta) -> WeightDelta:
    ones = torch.ones_like(delta.tensors["values"])
    if isinstance(delta, BlockDelta):
        return BlockDelta(
            layer=LAYER,
            shape=SHAPE,
            block=delta.block,
            block_index=delta.block_index,
            values=ones,
            row_stride=delta.row_stride,
        )
    return ElementDelta(layer=LAYER, shape=SHAPE, indices=delta.tensors["indices"], values=ones)


def test_layer_that_nobody_changes_stays_unchanged() -> None:
    assert overlap([None, None]) is None


def test_absent_members_do_not_count() -> None:
    """Layer drop is no mask, not a zero: Eq. 4 divides by the masks that are there."""
    assert entries(made(overlap([None, element({7: 3.0}), None]))) == {7: 3.0}


def test_average_counts_absent_members() -> None:
    given = inputs([Draft("dense", SHAPE, 1), Draft("absent", SHAPE, 2)], [1.0, 1.0])
    merged = made(merge_layer("average", {}, given, layer=LAYER, shape=SHAPE))
    assert torch.equal(merged.dense(), made(given[0].delta).dense() / 2)

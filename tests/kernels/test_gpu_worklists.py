"""What a step's deltas are to the kernels: slots, jobs, launches, and the order of products."""

import numpy as np
import pytest
import torch

from adapters_store.adapter import BiasDelta, ElementDelta, LowRankDelta, WeightDelta

pytest.importorskip("triton", reason="the work is that of a GPU's kernels")

from server.kernels.gpu.forms import form_of, forms_of
from server.kernels.gpu.operands import GpuOperand, Kind, Work, lay_out
from server.kernels.gpu.slots import SlotFiling, layer_slots, slots_of
from server.kernels.gpu.table import ROWS
from server.kernels.gpu.worklists import (
    Segment,
    WorkList,
    chunks,
    jobs_of,
    launches_of,
    list_work,
    segments_of,
)
from server.kernels.recorded import BeyondCapacity
from server.kernels.reference_operands import lay_out as lay_out_reference

SHAPE = (40, 8)
BIAS = BiasDelta(layer="l", shape=SHAPE, bias=torch.ones(40))
LOW_RANK = LowRankDelta(layer="l", shape=SHAPE, a=torch.ones(3, 8), b=torch.ones(40, 3))
WIDER = LowRankDelta(layer="l", shape=SHAPE, a=torch.ones(33, 8), b=torch.ones(40, 33))
ENTRY = ElementDelta(layer="l", shape=SHAPE, indices=torch.tensor([5]), values=torch.ones(1))
FP32 = torch.float32


def operand(delta: WeightDelta) -> GpuOperand:
    return lay_out(delta, torch.clone)


def listed(deltas: list[list[WeightDelta]], offsets: list[int], tokens: list[int]) -> WorkList:
    slots = [layer_slots([operand(delta) for delta in own], SHAPE[0]) for own in deltas]
    rows = range(max(tokens, default=-1) + 1)
    return list_work(segments_of(slots, offsets), np.array(tokens, np.int64), rows)


@pytest.mark.parametrize(
    ("work", "tokens_by_pairs"),
    [
        (Work.ENTRIES, {1: 1, 2: 8, 8: 8, 9: 8, 500: 8}),
        (Work.RUNS, {1: 1, 2: 4, 500: 4}),
        (Work.TILES, {1: 1, 2: 8, 8: 8, 9: 16, 16: 16, 17: 64, 500: 64}),
        (Work.DENSE, {1: 1, 8: 8, 9: 16, 65: 64}),
        (Work.BIAS, {1: 8, 500: 8}),
    ],
)
def test_form_is_the_smallest_that_takes_a_segment_whole(
    work: Work, tokens_by_pairs: dict[int, int]
) -> None:
    kind = Kind(work, FP32)
    found = {pairs: form_of(kind, pairs).num_tokens for pairs in tokens_by_pairs}
    assert found == tokens_by_pairs
    for pairs in tokens_by_pairs:
        assert {form_of(kind, fewer) for fewer in range(1, pairs + 1)} == set(
            forms_of([kind], pairs)
        )


def test_forms_run_first_factors_before_second_ones() -> None:
    kinds = {Kind(work, dtype) for work in Work for dtype in (FP32, torch.bfloat16)}
    works = [form.work for form in forms_of(kinds, 100)]
    assert works.index(Work.LOW_RANK_B) > max(
        at for at, work in enumerate(works) if work is Work.LOW_RANK_A
    )


def test_products_lie_by_segment_and_are_added_by_token() -> None:
    work = listed([[LOW_RANK, BIAS], [], [BIAS], [LOW_RANK]], [0, 2, 3, 4, 4], [0, 2, 1, 0])
    assert work.num_inner == 2 * 3
    assert work.slot_numbers[:, :5].tolist() == [
        # first pair, pairs, target, row, source
        [0, 2, 0, 0, 0],
        [0, 2, 0, 0, 0],
        [0, 2, 0, 2, 0],
        [3, 1, 0, 4, 0],
    ]
    # product, pair, slot: the first segment's two of token 0, then the third's
    assert work.sums[:, :3].tolist() == [[0, 0, 1], [2, 0, 2], [4, 3, 3], [1, 1, 1], [3, 1, 2]]
    assert work.starts.tolist() == [0, 3, 3, 5]


def test_what_first_factors_leave_lies_behind_each_other() -> None:
    work = listed([[WIDER], [LOW_RANK]], [0, 2, 3], [0, 1, 1])
    targets, sources = work.slot_numbers[:, 2], work.slot_numbers[:, 4]
    assert (targets.tolist(), sources.tolist()) == ([0, 0, 66, 0], [0, 0, 0, 66])
    assert work.num_inner == 2 * 33 + 3


def test_jobs_of_a_form_lie_behind_each_other_and_forms_without_a_job_are_empty() -> None:
    work = listed([[BIAS], [LOW_RANK], [BIAS]], [0, 17, 18, 19], [*range(17), 0, 0])
    kinds = [Kind(own, FP32) for own in (Work.BIAS, Work.LOW_RANK_B, Work.LOW_RANK_A)]
    forms = forms_of(kinds, 8)
    assert [(form.work, form.number) for form in forms] == [
        (Work.LOW_RANK_A, 0),
        (Work.LOW_RANK_A, 1),
        (Work.LOW_RANK_B, 0),
        (Work.LOW_RANK_B, 1),
        (Work.BIAS, 0),
    ]
    assert jobs_of(work, forms).tolist() == [[1, 0], [2, 0], [0, 0], [0, 8], [0, 16], [3, 0]]
    narrow, wide = launches_of(work, forms, (40, 300))
    assert narrow[:, :3].tolist() == [[0, 1, 1], [1, 1, 0], [1, 2, 3], [2, 2, 3], [2, 6, 1]]
    assert wide[:, :3].tolist() == [[0, 1, 1], [1, 1, 0], [1, 2, 19], [2, 2, 19], [2, 6, 2]]


def test_jobs_of_a_launch_have_items_for_the_most_rows_of_any() -> None:
    work = listed([[WIDER], [LOW_RANK]], [0, 1, 2], [0, 0])
    launches = launches_of(work, forms_of([Kind(Work.LOW_RANK_A, FP32)], 1), (40,))
    assert launches[0, :, :3].tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_chunks_have_all_pairs_once_and_no_more_products_than_allowed(most: int) -> None:
    slots = [
        layer_slots([operand(own) for own in deltas], 40) for deltas in ([BIAS, ENTRY], [BIAS])
    ]
    tokens = np.array([0, 1, 3, 4, 1, 3, 6])
    segments = [Segment(slots[0], 0, 4), Segment(slots[1], 4, 7)]
    found = list(chunks(segments, tokens, 8, most))
    assert [row for rows, _ in found for row in rows] == list(range(8))
    pairs = [pair for _, own in found for _, first, past in own for pair in range(first, past)]
    assert sorted(pairs) == list(range(7))
    for rows, own in found:
        assert all(tokens[pair] in rows for _, first, past in own for pair in range(first, past))
        products = sum(len(segment.slots) * (segment.past - segment.first) for segment in own)
        assert products <= most or len(rows) == 1


# Slots


def test_operands_of_a_kind_are_one_slot_in_all_layers() -> None:
    entry, low_rank, wider, biases = (
        operand(ENTRY),
        operand(LOW_RANK),
        operand(WIDER),
        [operand(BIAS) for _ in range(3)],
    )
    layers = ("a", "b", "c")
    own = {"b": (low_rank, biases[0]), "a": (entry, biases[1], biases[2]), "c": (wider,)}
    slots = slots_of(own, layers)
    found = {
        (slot.kind.work, slot.is_inner): slot.parts[:, ROWS].tolist()
        for slot in slots
        if slot.kind is not None and slot.kind.work is not Work.BIAS
    }
    assert found == {
        (Work.ENTRIES, False): [40, 0, 0],
        (Work.LOW_RANK_A, True): [0, 3, 33],
        (Work.LOW_RANK_B, False): [0, 40, 40],
    }
    first, second = (slot.parts for slot in slots if slot.kind == Kind(Work.BIAS, FP32))
    assert first.tolist() == [
        list(biases[at].parts[0].row) if at < 2 else [0] * 10 for at in (1, 0, 2)
    ]
    assert second[0].tolist() == list(biases[2].parts[0].row)
    assert not second[1:].any()


def test_what_no_kernel_multiplies_and_layers_that_are_not_there_are_refused() -> None:
    reference = lay_out_reference(ENTRY, torch.device("cpu"))
    with pytest.raises(BeyondCapacity, match="kernel"):
        slots_of({"a": (reference,)}, ("a",))
    with pytest.raises(BeyondCapacity, match="layers"):
        slots_of({"b": (operand(ENTRY),)}, ("a",))


def test_slots_are_found_once_and_forgotten_with_the_adapter() -> None:
    filing = SlotFiling(("a",))
    one, other = ({"a": (operand(ENTRY),)} for _ in range(2))
    slots = filing.slots_of(one)
    assert filing.slots_of(one) is slots
    assert filing.slots_of(other) is not slots
    assert filing.slots_of({}) == ()
    assert len(filing._found) == 2
    del one["a"]
    assert len(filing._found) == 1

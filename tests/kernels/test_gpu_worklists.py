"""What a mixed batch is to the kernels: jobs, launches, and the order of products."""

import numpy as np
import pytest
import torch

from adapters_store.adapter import BiasDelta, LowRankDelta, WeightDelta

pytest.importorskip("triton", reason="the work is that of a GPU's kernels")

from server.kernels.gpu.forms import form_of
from server.kernels.gpu.operands import GpuOperand, Part, Work, lay_out
from server.kernels.gpu.table import COUNT, PAIR, SOURCE, TARGET
from server.kernels.gpu.worklists import list_work

SHAPE = (40, 8)
BIAS = BiasDelta(layer="l", shape=SHAPE, bias=torch.ones(40))
LOW_RANK = LowRankDelta(layer="l", shape=SHAPE, a=torch.ones(3, 8), b=torch.ones(40, 3))


def operand(delta: WeightDelta) -> GpuOperand:
    return lay_out(delta, torch.device("cpu"))


def part(work: Work) -> Part:
    return Part(work, torch.float32, np.zeros(0, np.int64))


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
    found = {pairs: form_of(part(work), pairs).num_tokens for pairs in tokens_by_pairs}
    assert found == tokens_by_pairs


def test_products_lie_by_segment_and_then_by_operand() -> None:
    own, other = [operand(LOW_RANK), operand(BIAS)], [operand(BIAS)]
    work = list_work([own, [], other, own], [0, 2, 3, 4, 4], 40)
    assert work.num_products == 5
    assert work.num_inner == 2 * 3
    table, _, _, pairs = work.numbers
    assert pairs.tolist() == [0, 1, 0, 1, 3]
    assert table[:, TARGET].tolist() == [0, 0, 2 * 40, 4 * 40]  # A's, B's, two biases'
    assert table[:, PAIR].tolist() == [0, 0, 0, 3]
    assert table[:, COUNT].tolist() == [2, 2, 2, 1]
    assert table[1, SOURCE] == table[0, TARGET]


def test_jobs_of_a_form_are_one_launch_and_first_factors_come_first() -> None:
    operands = [[operand(BIAS)], [operand(LOW_RANK)], [operand(BIAS)]]
    work = list_work(operands, [0, 17, 18, 19], 40)
    assert [form.work for form in work.forms] == [Work.LOW_RANK_A, Work.LOW_RANK_B, Work.BIAS]
    _, jobs, launches, _ = work.numbers
    assert launches.tolist() == [[0, 1, 1], [1, 2, 3], [2, 6, 1]]
    assert jobs.tolist() == [[1, 0], [2, 0], [0, 0], [0, 8], [0, 16], [3, 0]]


def test_numbers_reach_the_device_as_they_are() -> None:
    work = list_work([[operand(LOW_RANK)]], [0, 3], 40)
    placed = work.placed(torch.device("cpu"))
    for array, tensor in zip(work.numbers, placed, strict=True):
        assert torch.equal(torch.from_numpy(array), tensor)


def test_jobs_of_a_launch_have_items_for_the_most_rows_of_any() -> None:
    wide = LowRankDelta(layer="l", shape=SHAPE, a=torch.ones(33, 8), b=torch.ones(40, 33))
    work = list_work([[operand(wide)], [operand(LOW_RANK)]], [0, 1, 2], 40)
    _, _, launches, _ = work.numbers
    assert launches.tolist() == [[0, 2, 3], [2, 4, 3]]

"""Paged attention by a GPU's kernels, interpreted: mixed steps, splits, every dtype, bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_cases import SCALE, Case, Placed, make_case, paged_attention, placed, plain_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from server.kernels.recorded import AttentionShape

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from interpreted_memory import Memory

from server.kernels.gpu import attention_list
from server.kernels.gpu import kernels as gpu_kernels
from server.kernels.gpu.kernels import GpuKernels

KERNELS = GpuKernels("cpu")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
STEPS = {FP32: 5e-6, BF16: 2**-7, FP16: 2**-10}  # of weights and of outputs, which are about 1
MIXED = ([70, 7, 33, 64, 1], [1, 7, 21, 1, 1])  # contexts, and of those in the step


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


@pytest.fixture
def short_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_list, "LEAST_KEYS", attention_list.KEYS)


def rounded(case: Case, dtype: torch.dtype) -> Case:
    """With the numbers that kernels of `dtype` get."""

    def of(tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.to(dtype).float() for tensor in tensors]

    return replace(case, queries=of(case.queries), keys=of(case.keys), values=of(case.values))


def assert_true(found: Tensor, case: Case, window: int | None) -> None:
    step = STEPS[found.dtype]
    expected = plain_attention(rounded(case, found.dtype), window)
    torch.testing.assert_close(found.double(), expected, rtol=step, atol=step)


def first_seen(case: Case, row: int, window: int | None) -> int:
    """Position of the first key that a sequence's tokens see."""
    return max(0, case.lengths[row] - case.news[row] - window + 1) if window else 0


def forget_unseen(step: Placed, case: Case, window: int | None) -> None:
    """Make NaN of what is too old to be seen, and forget the pages of which nothing is."""
    tables = step.batch.block_tables
    for row in range(len(case.lengths)):
        first = first_seen(case, row, window)
        old = torch.arange(first)
        pages, slots = tables[row, old // case.page_size], old % case.page_size
        step.keys[pages, slots] = step.values[pages, slots] = torch.nan
        tables[row, : first // case.page_size] = tables[row, -1]


@settings(deadline=None, max_examples=20)
@given(
    sequences=st.lists(
        st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
        min_size=1,
        max_size=3,
    ),
    heads=st.sampled_from([(1, 1), (4, 4), (3, 1), (8, 2), (8, 1)]),
    window=st.none() | st.integers(1, 90),
    sizes=st.sampled_from([(8, 4), (16, 16), (24, 32), (32, 64)]),
    dtype=st.sampled_from([FP32, BF16]),
)
def test_attention_is_a_softmax_over_the_visible_tokens(
    sequences: list[tuple[int, int]],
    heads: tuple[int, int],
    window: int | None,
    sizes: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    case = make_case([n for n, _ in sequences], [new for _, new in sequences], *heads, sizes)
    assert_true(paged_attention(KERNELS, case, window, dtype), case, window)


@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize("size", [64, 96, 128])
def test_heads_that_are_compiled_ahead_are_right_in_every_dtype(
    size: int, dtype: torch.dtype
) -> None:
    case = make_case([40, 23, 1], [1, 22, 1], 3, 1, (size, 32))
    case.keys = [keys * size**-0.5 for keys in case.keys]  # or weights are 0 and 1
    found = paged_attention(KERNELS, case, None, dtype)
    assert found.dtype == dtype
    assert_true(found, case, None)


@pytest.mark.parametrize(("dtype", "page_size"), [(FP32, 16), (BF16, 64)])
@pytest.mark.parametrize("window", [None, 1, 31, 32, 50, 500])
@pytest.mark.usefixtures("short_splits")
def test_what_is_too_old_is_not_read(
    window: int | None, page_size: int, dtype: torch.dtype
) -> None:
    """In splits of a block of keys each."""
    case = make_case(*MIXED, 3, 1, (16, page_size))
    step = placed(case, dtype)
    forget_unseen(step, case, window)
    assert_true(KERNELS.attention(*step, scale=SCALE, sliding_window=window), case, window)


@pytest.mark.parametrize("num_programs", [1, 50])
def test_a_grid_of_any_size_does_every_item(
    num_programs: int, monkeypatch: pytest.MonkeyPatch, short_splits: None
) -> None:
    case = make_case(*MIXED, 2, 2, (16, 16))
    expected = paged_attention(KERNELS, case, None)
    monkeypatch.setattr(gpu_kernels, "INTERPRETED_PROGRAMS", num_programs)
    assert torch.equal(paged_attention(GpuKernels("cpu"), case, None), expected)


def test_block_tables_may_lie_in_any_order() -> None:
    case = make_case([70, 7], [1, 7], 3, 1, (16, 16))
    step = placed(case)
    turned = step.batch.block_tables.T.contiguous().T
    batch = replace(step.batch, block_tables=turned)
    found = KERNELS.attention(*step[:3], batch, scale=SCALE, sliding_window=None)
    assert_true(found, case, None)


def test_33_sequences_of_a_step_are_each_their_own(short_splits: None) -> None:
    lengths = [1 + 37 * n % 60 for n in range(33)]
    news = [1 if n % 8 else min(lengths[n], 20) for n in range(33)]
    case = make_case(lengths, news, 3, 1, (16, 32))
    assert_true(paged_attention(KERNELS, case, 60), case, 60)


def test_long_context_is_merged_of_its_pieces() -> None:
    case = make_case([700], [3], 4, 1, (16, 32))
    narrow_rows = attention_list.list_attention([0, 3], [700], 4, None)[
        1:, attention_list.SPLITS.value
    ]
    assert set(narrow_rows) == {3}
    assert_true(paged_attention(KERNELS, case, None), case, None)


def test_piece_that_some_rows_see_nothing_of_is_merged(short_splits: None) -> None:
    case = make_case([72], [15], 1, 1, (16, 16))  # with a window, by row other splits are empty
    for window in (3, 20):
        assert_true(paged_attention(KERNELS, case, window), case, window)


@pytest.fixture
def listing(short_splits: None) -> np.ndarray:
    """Numbers ahead, whose rest is of no list."""
    shape = AttentionShape(3, 40)
    return np.full(KERNELS.attention_numbers(64, shape), 1 << 40)


def test_padding_is_not_touched_and_lists_may_be_longer(
    listing: np.ndarray, memory: Memory
) -> None:
    case = make_case(*MIXED, 6, 2, (16, 32))
    step = placed(case)
    KERNELS.list_attention(
        listing, step.batch.query_offsets, step.batch.context_lengths, AttentionShape(3, 40)
    )
    batch = replace(step.batch, work=torch.from_numpy(listing), context_lengths=[])
    query = torch.cat([step.query, torch.full((33, 6, 16), torch.nan)])
    found = KERNELS.attention(query, step.keys, step.values, batch, scale=SCALE, sliding_window=40)
    assert_true(found[:31], case, 40)
    assert (found[31:] == 0).all()


def test_zeros_are_an_empty_list(memory: Memory) -> None:
    step = placed(make_case([5], [1], 1, 1, (16, 16)))
    work = torch.zeros(KERNELS.attention_numbers(1, AttentionShape(1, None)), dtype=torch.int64)
    batch = replace(step.batch, work=work)
    found = KERNELS.attention(*step[:3], batch, scale=SCALE, sliding_window=None)
    assert (found == 0).all()


@pytest.mark.parametrize(("window", "page_size"), [(None, 32), (20, 16), (45, 32)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_nothing_is_read_outside_of_what_is_seen(
    window: int | None, page_size: int, dtype: torch.dtype, memory: Memory, short_splits: None
) -> None:
    """Of the cache, kernels are given page 0, which nobody has; they may go to what is noted."""
    case = make_case(*MIXED, 3, 1, (24, page_size))
    step = placed(case, dtype)
    forget_unseen(step, case, window)
    for row, length in enumerate(case.lengths):
        for at in range(first_seen(case, row, window), length):
            page, slot = step.batch.block_tables[row, at // page_size], at % page_size
            memory.note(step.values[page, slot, 0])
            run = slot // 8 * 8  # of heads of 24 numbers, 8 is the longest that begins at its like
            memory.note(*step.keys[page, run : run + 8, 0].T)
    cache = step.keys[:1], step.values[:1]
    found = KERNELS.attention(step.query, *cache, step.batch, scale=SCALE, sliding_window=window)
    assert_true(found, case, window)
    assert memory.num_checked > 0

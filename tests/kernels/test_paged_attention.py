"""Attention over pages, against a plain softmax in fp64."""

from dataclasses import dataclass
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import AttentionBatch, Kernels
from server.kernels.reference import ReferenceKernels
from server.model.kv_cache import paged

SCALE = 0.3
SIZES = {
    "gathered": (8, 4),
    "pages of half a block": (32, 16),
    "in place": (32, 32),
    "wide": (96, 32),
}


@dataclass
class Case:
    """Sequences of `lengths` tokens, of which the last `news` are queries."""

    lengths: list[int]
    news: list[int]
    queries: list[Tensor]  # [new, H, D]
    keys: list[Tensor]  # [length, K, D]
    values: list[Tensor]
    page_size: int


def make_case(
    lengths: list[int],
    news: list[int],
    num_heads: int,
    num_kv_heads: int,
    sizes: tuple[int, int] = SIZES["gathered"],
) -> Case:
    """`sizes` are those of a head and of a page."""
    head_dim, page_size = sizes
    source = torch.Generator().manual_seed(sum(lengths))

    def rows(count: int, heads: int) -> Tensor:
        return torch.randn(count, heads, head_dim, generator=source)

    return Case(
        lengths,
        news,
        [rows(new, num_heads) for new in news],
        [rows(length, num_kv_heads) for length in lengths],
        [rows(length, num_kv_heads) for length in lengths],
        page_size,
    )


def paged_attention(
    kernels: Kernels, case: Case, window: int | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Attention over a cache whose every unused place is NaN, so that reading one shows."""
    page_size = case.page_size
    counts = [-(-length // page_size) for length in case.lengths]
    order = torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(1))
    tables = torch.full((len(counts), max(counts)), int(order[-1]))
    _, num_kv_heads, head_dim = case.keys[0].shape
    storage = torch.full((2, len(order), num_kv_heads, page_size * head_dim), torch.nan).to(dtype)
    (keys,), (values,) = paged(storage, page_size)
    unturned = torch.ones(1, 0, dtype=dtype)
    new_slots = []
    for row, (length, new) in enumerate(zip(case.lengths, case.news, strict=True)):
        first = sum(counts[:row])
        tables[row, : counts[row]] = order[first : first + counts[row]]
        places = torch.arange(length)
        slots = tables[row, places // page_size] * page_size + places % page_size
        heads = torch.cat([case.keys[row], case.values[row]], dim=1).to(dtype)
        turn = unturned.expand(length, 0)
        ReferenceKernels("cpu").rotate_and_cache(heads, turn, turn, slots, keys, values)
        new_slots.append(slots[length - new :])
    batch = AttentionBatch(
        query_offsets=[0, *accumulate(case.news)],
        context_lengths=case.lengths,
        block_tables=tables,
        slots=torch.cat(new_slots),
    )
    query = torch.cat(case.queries).to(dtype)
    return kernels.attention(query, keys, values, batch, scale=SCALE, sliding_window=window)


def plain_attention(case: Case, window: int | None) -> Tensor:
    outputs = []
    for query, keys, values in zip(case.queries, case.keys, case.values, strict=True):
        group = query.shape[1] // keys.shape[1]
        wide_keys = keys.double().repeat_interleave(group, dim=1)
        wide_values = values.double().repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query.double(), wide_keys) * SCALE
        i = torch.arange(len(keys) - len(query), len(keys))[:, None]
        j = torch.arange(len(keys))
        seen = (j <= i) & (j > i - (window or len(keys)))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, wide_values))
    return torch.cat(outputs)


SEQUENCES = st.lists(
    st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(
    sequences=SEQUENCES,
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    window=st.none() | st.integers(1, 90),
    sizes=st.sampled_from([*SIZES.values()]),
)
def test_attention_is_a_softmax_over_the_visible_tokens(
    kernels: Kernels,
    sequences: list[tuple[int, int]],
    heads: tuple[int, int],
    window: int | None,
    sizes: tuple[int, int],
) -> None:
    case = make_case([n for n, _ in sequences], [new for _, new in sequences], *heads, sizes)
    output = paged_attention(kernels, case, window)
    torch.testing.assert_close(output.double(), plain_attention(case, window), rtol=0, atol=5e-6)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("window", [None, 1, 4, 5, 40])
def test_batch_mates_change_no_bit(
    kernels: Kernels, window: int | None, sizes: tuple[int, int]
) -> None:
    singles = [7, 64, 32, 33, 90, 1, 31, 40, 2]  # so many that a task takes all heads of one
    news = [1, 6, 1, 33, *(1 for _ in singles)]
    case = make_case([9, 70, 1, 33, *singles], news, 4, 2, sizes)
    together = paged_attention(kernels, case, window).split(case.news)
    for row, output in enumerate(together):
        parts = (case.lengths, case.news, case.queries, case.keys, case.values)
        alone = Case(*([part[row]] for part in parts), case.page_size)  # type: ignore[arg-type, call-arg]
        assert torch.equal(paged_attention(kernels, alone, window), output)


def test_16_bit_attention_is_within_its_rounding() -> None:
    case = make_case([30, 7], [5, 7], 4, 2)
    output = paged_attention(ReferenceKernels("cpu"), case, None, torch.bfloat16)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), plain_attention(case, None), rtol=0, atol=0.03)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("window", [None, 3, 40])
def test_compiled_rows_have_the_same_bits_in_chunks_of_any_size(
    window: int | None, sizes: tuple[int, int]
) -> None:
    whole = make_case([75], [75], 6, 2, sizes)
    together = paged_attention(CpuKernels(), whole, window)
    for chunk in (1, 7, 16, 50):
        for start in range(0, 75, chunk):
            end = min(75, start + chunk)
            part = Case(
                [end],
                [end - start],
                [whole.queries[0][start:end]],
                [whole.keys[0][:end]],
                [whole.values[0][:end]],
                whole.page_size,
            )
            assert torch.equal(paged_attention(CpuKernels(), part, window), together[start:end])

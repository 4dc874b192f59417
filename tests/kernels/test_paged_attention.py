"""Attention over pages, against a plain softmax in fp64."""

import pytest
import torch
from attention_cases import Case, make_case, paged_attention, plain_attention
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels

SIZES = {
    "gathered": (8, 4),
    "pages of half a block": (32, 16),
    "in place": (32, 32),
    "wide": (96, 32),
}


SEQUENCES = st.lists(
    st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kernels", ["reference", "cpu"], indirect=True)  # a GPU's have their own
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
    torch.testing.assert_close(output.double(), plain_attention(case, window), rtol=0, atol=2e-5)


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
    case = make_case([30, 7], [5, 7], 4, 2, SIZES["gathered"])
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

"""The highest logit of every row, the lowest id that has it, and the sum of all exps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.kernels.interface import Kernels


@given(
    shape=st.tuples(st.integers(0, 5), st.sampled_from([1, 31, 32, 33, 500])),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.1, 3.0, 100.0]),
)
def test_summary_is_that_of_each_row(
    kernels: Kernels, shape: tuple[int, int], seed: int, spread: float
) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    summary = kernels.summarize(logits)
    if shape[0]:
        assert torch.equal(summary.best, logits.argmax(-1))
        assert torch.equal(summary.highest, logits.amax(-1))
    expected = (
        logits.double().logsumexp(-1) - logits.double().amax(-1) if shape[0] else logits[:, 0]
    )
    torch.testing.assert_close(summary.log_sums, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("places", [[0, 1], [3, 40], [31, 32], [40, 69], [64, 65], [69]])
def test_equal_logits_give_the_lowest_id(kernels: Kernels, places: list[int]) -> None:
    logits = torch.full((2, 70), -1.0)
    logits[1, places] = 5.0
    assert kernels.summarize(logits).best.tolist() == [0, places[0]]


@pytest.mark.parametrize("place", [0, 17, 45, 69])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_row_with_what_is_no_number_shows_it(kernels: Kernels, place: int, value: float) -> None:
    logits = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))
    alone = kernels.summarize(logits).log_sums
    logits[1, place] = value
    found = kernels.summarize(logits).log_sums
    assert not found[1].isfinite()
    assert torch.equal(found[[0, 2]], alone[[0, 2]])


def test_row_of_nothing_but_minus_infinity_is_no_number(kernels: Kernels) -> None:
    assert kernels.summarize(torch.full((1, 40), -torch.inf)).log_sums.isnan().all()

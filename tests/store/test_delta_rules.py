"""The quick ways to see that numbers are finite and indices ascend say what the plain ones say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.adapter import ElementDelta
from adapters_store.delta_rules import form_reasons

LAYER = "model.layers.0.self_attn.qkv_proj"
COUNT = 12  # places of the weight


def reasons(indices: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> str:
    delta = ElementDelta(layer=LAYER, shape=shape, indices=indices, values=values)
    return "; ".join(form_reasons(delta))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_16_bits_is_finite_or_refused(dtype: torch.dtype) -> None:
    patterns = np.arange(1 << 16).astype(np.uint16).view(np.int16)
    numbers = torch.from_numpy(patterns).view(dtype)
    finite, wrong = numbers[torch.isfinite(numbers)], numbers[~torch.isfinite(numbers)]
    places = torch.arange(len(finite), dtype=torch.int32)
    assert reasons(places, finite, (256, 256)) == ""
    for number in wrong:
        assert "1 values are not finite, the first is [1]" in reasons(
            places[:3], torch.stack([finite[0], number, finite[1]]), (256, 256)
        )


@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan])
def test_a_number_of_32_bits_that_is_not_finite_is_refused(number: float) -> None:
    places = torch.arange(3, dtype=torch.int32)
    largest = torch.finfo(torch.float32).max
    assert reasons(places, torch.tensor([0.0, largest, -largest]), (3, 4)) == ""
    assert "the first is [2]" in reasons(places, torch.tensor([0.0, 1.0, number]), (3, 4))


@given(st.lists(st.integers(-2, COUNT + 1), min_size=1, max_size=6))
def test_indices_are_in_the_weight_sorted_and_unique_or_refused(indices: list[int]) -> None:
    right = sorted(set(indices)) == indices and indices[0] >= 0 and indices[-1] < COUNT
    places = torch.tensor(indices, dtype=torch.int32)
    assert (reasons(places, torch.ones(len(indices)), (3, 4)) == "") == right


@given(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=20))
def test_extremes_of_32_bits_do_not_wrap_around(indices: list[int]) -> None:
    for extreme in (-(2**31), 2**31 - 1):
        places = torch.tensor([*sorted(set(indices)), extreme], dtype=torch.int32)
        assert "is outside [0, 12)" in reasons(places, torch.ones(len(places)), (3, 4))

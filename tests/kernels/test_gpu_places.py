"""Numbers saved and written by a GPU's kernels, interpreted: the same bits, and nothing beside."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from interpreted_memory import Memory

from server.kernels.gpu.kernels import GpuKernels

KERNELS = GpuKernels("cpu")
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def any_bits(dtype: torch.dtype, count: int) -> Tensor:
    """Numbers of every kind: not-a-numbers, infinities and both zeros too."""
    wide = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(1))
    return wide.to(BITS[dtype]).view(dtype)


def equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(BITS[one.dtype]), other.view(BITS[other.dtype]))


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("dtype", BITS)
def test_what_is_written_over_is_undone_to_the_bit(dtype: torch.dtype, count: int) -> None:
    weight = any_bits(dtype, 50 * 70).view(50, 70)
    before, address = weight.clone(), weight.data_ptr()
    drawn = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(2))
    places = drawn[:count]
    if count > 1:
        places[:2] = torch.tensor([0, weight.numel() - 1])  # the corners
        places = places.unique()[torch.randperm(len(places.unique()))]
    saved = KERNELS.read(weight, places)
    assert equal(saved, before.flatten()[places])
    KERNELS.write(weight, places, torch.full((len(places),), 1.5))
    expected = before.clone().flatten().index_fill(0, places, 1.5).view(50, 70)
    assert equal(weight, expected)
    KERNELS.write(weight, places, saved)
    assert equal(weight, before)
    assert weight.data_ptr() == address


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wider_numbers_are_rounded_once(dtype: torch.dtype) -> None:
    weight, places = torch.zeros(4, 5, dtype=dtype), torch.tensor([19, 3, 7])
    values = torch.tensor([1.0 + 2**-9, -(1.0 + 3 * 2**-9), 1e-30])
    KERNELS.write(weight, places, values)
    assert torch.equal(weight.flatten()[places], values.to(dtype))


def test_what_is_not_a_list_of_a_weight_s_places_is_refused() -> None:
    weight, places = torch.zeros(4, 6), torch.tensor([1, 2])
    for own, at, values in (
        (weight.T, places, torch.ones(2)),
        (weight, places.int(), torch.ones(2)),
        (weight, places, torch.ones(3)),
    ):
        with pytest.raises(AssertionError):
            KERNELS.write(own, at, values)

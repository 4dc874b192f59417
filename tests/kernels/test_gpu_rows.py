"""Norms, gates and placed heads of a GPU's kernels, interpreted: any size, 16 bits, bounds."""

from functools import partial

import pytest
import torch

from server.kernels.reference import ReferenceKernels

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from interpreted_memory import Memory

from server.kernels.gpu.kernels import GpuKernels
from server.model.kv_cache import paged

GPU, REFERENCE = GpuKernels("cpu"), ReferenceKernels("cpu")
DTYPES = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}  # two roundings


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


@pytest.mark.parametrize("width", [1, 1024, 1100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_gate_are_the_reference_s(dtype: torch.dtype, width: int) -> None:
    source = torch.Generator().manual_seed(width)
    x = torch.randn(3, 2 * width, generator=source).to(dtype)
    weight = torch.randn(2 * width, generator=source).to(dtype)
    assert_near = partial(torch.testing.assert_close, rtol=DTYPES[dtype], atol=1e-6)
    normed = REFERENCE.rms_norm(x, weight, 1e-5)
    assert_near(GPU.rms_norm(x, weight, 1e-5), normed)
    assert_near(GPU.silu_gate(x), REFERENCE.silu_gate(x))


@pytest.mark.parametrize(("size", "rotary"), [(16, 0), (16, 12), (130, 130)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_go_where_the_reference_puts_them(dtype: torch.dtype, size: int, rotary: int) -> None:
    source = torch.Generator().manual_seed(size)
    heads = torch.randn(5, 6 + 2 * 3, size, generator=source).to(dtype)
    angles = torch.randn(5, rotary // 2, generator=source).repeat(1, 2)
    turns = angles.cos().to(dtype), angles.sin().to(dtype)
    slots = torch.tensor([27, 0, 13, 14, 4])
    found, expected = (torch.zeros(2, 7, 3, 4 * size, dtype=dtype) for _ in range(2))
    queries = []
    for kernels, storage in ((GPU, found), (REFERENCE, expected)):
        (keys,), (values,) = paged(storage, page_size=4)
        queries.append(kernels.rotate_and_cache(heads, *turns, slots, keys, values))
    step = DTYPES[dtype]
    assert_near = partial(torch.testing.assert_close, rtol=step, atol=2 * step)  # terms may cancel
    assert_near(*queries)
    assert_near(found, expected)

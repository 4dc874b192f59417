"""Products of one byte to a number: equal to their specification, and each row's own."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic
from store_factories import MAKERS, QKV, random
from torch import Tensor

from adapters_store.adapter import BiasDelta, WeightDelta
from server.kernels.cpu.int8 import bytes as int8_bytes
from server.kernels.cpu.int8 import grouped, layout, products
from server.kernels.cpu.int8.grouped import GROUP, SMALLEST
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.threads import can_share_threads
from server.kernels.cpu.vectors import INDEX, start_of
from server.kernels.interface import DeltaBatch

OUTLIER = 1e4
SPECIAL = [0.0, -0.0, OUTLIER, -OUTLIER, 1e-38, SMALLEST, 2 * SMALLEST, 3e38, 0.5, -1.5]
SHAPES = [(1, 1), (32, 32), (33, 31), (67, 35), (96, 576), (31, 1000)]
COUNTS = [1, 2, 3, 4, 5, 7, 8, 31, 70]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def specified(x: Tensor, weight: Tensor) -> Tensor:
    return grouped.product(grouped.quantize(x), grouped.quantize(weight))


def product(x: Tensor, packed: Tensor, most_threads: int = 2) -> Tensor:
    return products.product(x, packed, most_threads if can_share_threads() else 1)


def compiled(x: Tensor, weight: Tensor) -> Tensor:
    return product(x, layout.pack(weight))


@st.composite
def matrices(draw: st.DrawFn, rows: int, width: int) -> Tensor:
    """Normal numbers, some of which are not."""
    made = numbers(rows, width, seed=draw(st.integers(0, 9))) * 10.0 ** draw(st.integers(-4, 4))
    for place in draw(st.lists(st.integers(0, made.numel() - 1), max_size=6)):
        made.view(-1)[place] = draw(st.sampled_from(SPECIAL))
    if draw(st.booleans()):
        made[draw(st.integers(0, rows - 1))] = draw(st.sampled_from([0.0, -0.0]))
    return made


@given(data=st.data(), out=st.integers(1, 70), width=st.integers(1, 100), rows=st.integers(1, 70))
@settings(max_examples=60)
def test_compiled_product_is_the_specification_to_the_bit(
    data: st.DataObject, out: int, width: int, rows: int
) -> None:
    weight, x = data.draw(matrices(out, width)), data.draw(matrices(rows, width))
    found, expected = compiled(x, weight), specified(x, weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@given(data=st.data(), out=st.integers(1, 70), width=st.integers(1, 100))
@settings(max_examples=40)
def test_packed_weight_is_what_was_quantized(data: st.DataObject, out: int, width: int) -> None:
    weight = data.draw(matrices(out, width))
    packed, expected = layout.pack(weight), grouped.quantize(weight)
    assert packed.shape == (out, layout.row_bytes(width))
    assert all(map(torch.equal, layout.unpack(packed), expected))


@given(data=st.data(), width=st.integers(1, 100))
@settings(max_examples=40)
def test_quantized_numbers_are_within_half_a_step(data: st.DataObject, width: int) -> None:
    rows = data.draw(matrices(5, width))
    quantized = grouped.quantize(rows)
    steps = quantized.scales.repeat_interleave(GROUP, 1)[:, :width].double()
    error = (grouped.dequantize(quantized, width).double() - rows).abs()
    assert (error <= steps * 0.5001 + SMALLEST).all()


@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_product_is_near_that_of_the_numbers(out: int, width: int) -> None:
    weight, x = numbers(out, width), numbers(9, width, seed=1)
    exact = x.double() @ weight.double().T
    assert (compiled(x, weight) - exact).norm() <= 0.012 * x.norm() * weight.norm() / width**0.5


@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_rows_have_the_same_bits_in_any_company(out: int, width: int) -> None:
    x, packed = numbers(70, width, seed=1), layout.pack(numbers(out, width))
    together = product(x, packed)
    for count in COUNTS:
        for first in {0, (70 - count) // 2, 70 - count}:
            alone = product(x[first : first + count], packed, 1)
            assert torch.equal(alone, together[first : first + count]), (count, first)


@pytest.mark.parametrize("outlier", [OUTLIER, 3e38, torch.inf, -torch.inf, torch.nan])
def test_outlier_changes_no_bit_of_another_row(outlier: float) -> None:
    x, packed = numbers(9, 64), layout.pack(numbers(40, 64, seed=1))
    beside = x.clone()
    beside[4, 33] = outlier
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    expected, found = product(x, packed), product(beside, packed)
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("width", [40, 64])
def test_what_is_no_finite_number_makes_none(number: float, width: int) -> None:
    """So that it shows, as it does in fp32."""
    x, weight = numbers(3, width), numbers(40, width, seed=1)
    x[1, width - 1], weight[7, 0] = number, number
    for y in (compiled(x, weight), specified(x, weight)):
        assert y[1].isnan().all()
        assert y[:, 7].isnan().all()
        assert y[[0, 2]][:, [0, 39]].isfinite().all()


# Bytes


def _dots(add: Callable[..., Any]) -> Any:
    """`dots(sums, first, second)` over arrays of 16 words and 64 bytes, by `add`."""

    @intrinsic  # type: ignore[untyped-decorator]
    def dots(typing: Any, sums: Any, first: Any, second: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            places = [
                builder.bitcast(
                    start_of(context, builder, kind, array, ir.Constant(INDEX, 0)),
                    int8_bytes.WORDS.as_pointer(),
                )
                for kind, array in zip(signature.args, values, strict=True)
            ]
            loaded = [builder.load(place, align=4) for place in places]
            builder.store(add(context, builder, *loaded), places[0], 4)
            return context.get_dummy_value()

        return types.void(sums, first, second), generate

    @njit  # type: ignore[untyped-decorator]
    def call(sums: Any, first: Any, second: Any) -> None:
        dots(sums, first, second)

    return call


@pytest.mark.parametrize(
    "add",
    [int8_bytes.add_dots, lambda _, *given: int8_bytes._added_in_steps(*given)],
    ids=["this processor", "any processor"],
)
def test_dots_of_bytes_are_exact(add: Callable[..., Any]) -> None:
    dots, source = _dots(add), np.random.default_rng(0)
    for trial in range(50):
        first = source.integers(0, 256, 64, np.uint8)
        second = source.integers(-128, 128, 64, np.int8)
        if trial == 0:
            first[:], second[:] = 255, -128  # 16 bits would not hold the sum
        sums = source.integers(-(2**20), 2**20, 16, np.int32)
        expected = sums + (first.astype(np.int32) * second).reshape(16, 4).sum(1)
        dots(sums, first, second)
        assert np.array_equal(sums, expected)


SCRIPT = """
import torch
from server.kernels.cpu.int8.kernels import Int8CpuKernels
kernels = Int8CpuKernels()
source = torch.Generator().manual_seed(1)
weight = kernels.pack(torch.randn(67, 100, generator=source))
y = kernels.product(torch.randn(7, 100, generator=source), weight)
print(y.numpy().tobytes().hex())
"""


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86 only")
def test_processors_without_the_instruction_give_the_same_bits() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, **target},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for target in ({}, {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""})
    ]
    assert len(set(found)) == 1


# Adapters beside


def delta_of(kind: str) -> WeightDelta:
    return MAKERS[kind](QKV, torch.float32, random(1))


@pytest.mark.parametrize("kind", MAKERS)
def test_deltas_stay_in_full_precision(kind: str) -> None:
    kernels, delta = Int8CpuKernels(), delta_of(kind)
    weight, x = kernels.pack(numbers(*delta.shape)), numbers(5, delta.shape[1], seed=1)
    tokens, coefficients = torch.tensor([1, 2, 4]), torch.tensor([0.7, 0.7, -1.3])
    batch = DeltaBatch([[kernels.operand(delta)]], [0, 3], tokens, coefficients)
    change = kernels.linear(x, weight, batch) - kernels.linear(x, weight, None)
    dense = delta.dense()
    exact = dense.expand(3, -1) if isinstance(delta, BiasDelta) else x[tokens] @ dense.T
    assert torch.equal(change[[0, 3]], torch.zeros(2, delta.shape[0]))
    torch.testing.assert_close(
        change[tokens], coefficients[:, None] * exact.float(), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("kind", MAKERS)
def test_bytes_are_never_written_into(kind: str) -> None:
    """A fused delta would be rounded as coarsely as the base."""
    kernels = Int8CpuKernels()
    assert not kernels.can_fuse(kernels.operand(delta_of(kind)))

"""exp in fp32 without branches and calls, so that a loop over it is made of vectors."""

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import FLOAT, WORD

LEAST = np.float32(-87)  # exp of less is 0
LOG2_E = np.float32(1.44269504)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUNDER = np.float32(1.5 * 2**23)  # when added, what is no whole number is rounded away
ONE = np.int32(0x3F800000)  # the bits of 1.0
MANTISSA_BITS = np.int32(23)
SERIES = tuple(
    map(
        np.float32,
        (
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        ),
    )
)


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(typing: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], WORD)

    return types.int32(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _number_of(typing: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], FLOAT)

    return types.float32(types.int32), generate


@compiled
def exp(x: Any) -> Any:
    """exp(x) of an fp32 number up to 88, within 2 units of its last place; NaN stays NaN.

    Cephes' expf: 2^n, its exponent written as bits, times a polynomial of the rest.
    """
    bounded = LEAST if x < LEAST else x
    shifted = bounded * LOG2_E + ROUNDER
    whole = shifted - ROUNDER
    rest = bounded - whole * LN_2_HIGH - whole * LN_2_LOW
    series = SERIES[0]
    for place in range(1, len(SERIES)):
        series = series * rest + SERIES[place]
    series = series * rest * rest + rest + np.float32(1)
    power = _number_of(np.int32((_bits_of(shifted) << MANTISSA_BITS) + ONE))
    return np.float32(0) if x < LEAST else series * power

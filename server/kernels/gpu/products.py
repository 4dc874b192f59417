"""Products of small matrices inside a kernel, by multiply-add or tensor cores; rounding.

`factors [T, depth]` are activations, `weights [R, depth]` a piece of a delta. Sums are fp32. With
DOT they are `[T, R]`; else `[T, R, depth]`, joined only at the end, so that nothing passes between
threads meanwhile.
"""

import triton.language as tl

from server.kernels.gpu.compiled import compiled


@compiled
def no_sums(
    DOT: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr
) -> tl.tensor:
    """Sums of nothing."""
    if DOT:
        return tl.zeros([TOKENS, ROWS], tl.float32)
    else:
        return tl.zeros([TOKENS, ROWS, DEPTH], tl.float32)


@compiled
def add_product(
    sums: tl.tensor,
    factors: tl.tensor,
    weights: tl.tensor,
    DOT: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """`sums` with a piece of a product.

    Tensor cores take two 16-bit numbers of one type as they are. All else is multiplied in fp32,
    and so is everything where it is INTERPRETED: Triton's interpreter gets `tl.dot` of bf16 wrong.
    Of fp32, three products of 11 bits are one of 24.
    """
    if DOT:
        if factors.dtype == weights.dtype and not INTERPRETED:
            return tl.dot(factors, tl.trans(weights), sums, input_precision="tf32x3")
        else:
            wide = tl.trans(weights.to(tl.float32))
            return tl.dot(factors.to(tl.float32), wide, sums, input_precision="tf32x3")
    else:
        return sums + factors.to(tl.float32)[:, None, :] * weights.to(tl.float32)[None, :, :]


@compiled
def rounded(number: tl.tensor, dtype: tl.constexpr, INTERPRETED: tl.constexpr) -> tl.tensor:
    """An fp32 `number` as `dtype`: to the nearest, where Triton's interpreter would cut it off."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = number.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return number.to(dtype)


@compiled
def joined(sums: tl.tensor, DOT: tl.constexpr) -> tl.tensor:
    """The sums `[T, R]`."""
    if DOT:
        return sums
    else:
        return tl.sum(sums, 2)

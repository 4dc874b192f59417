"""Blocks of attention scores made weights, a row at a time, in registers.

The softmax of a row is taken block by block with a running maximum and sum (Milakov and
Gimelshein 2018). Numba makes vectors of such short loops only now and then, so they are written
as LLVM's instructions.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu import exponential
from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import (
    INDEX,
    LANES,
    VECTOR,
    WIDTH,
    WORD,
    broadcast,
    join_lanes,
    largest_across,
    load,
    start_of,
    store,
)

HIDDEN = np.float32(-1e30)  # the score of a token that is not seen
WORDS = ir.VectorType(WORD, LANES)


class Rows(NamedTuple):
    """What the rows of a task have so far; flat arrays, row by row."""

    sums: Any  # `length` numbers each: weights times values
    maxima: Any  # one each: the highest score
    totals: Any  # LANES numbers each: weights
    length: int


@compiled
def weigh(weights: Any, at: int, before: int, past: int, rows: Any, first: int, count: int) -> None:
    """The scores of `count` rows that see the same to weights: exp of each less its row's maximum.

    They begin at `weights[at]` and with row `first`, WIDTH a row, of which `[before, past)` are
    seen. Where a maximum rises, what the row has becomes relative to the new one.
    """
    for row in range(first, first + count):
        for j in range(before):
            weights[at + j] = HIDDEN
        for j in range(past, WIDTH):
            weights[at + j] = HIDDEN
        largest = largest_across(weights, at)
        if largest > rows.maxima[row]:
            _raise(rows, row, largest)
        _weigh(weights, at, rows.maxima[row], rows.totals, row * LANES)
        at += WIDTH


@compiled
def _raise(rows: Any, row: int, maximum: Any) -> None:
    shrinking = exponential.exp(rows.maxima[row] - maximum)
    rows.maxima[row] = maximum
    _shrink(rows.totals, row * LANES, shrinking)
    for d in range(row * rows.length, (row + 1) * rows.length, LANES):
        _shrink(rows.sums, d, shrinking)


@intrinsic  # type: ignore[untyped-decorator]
def _weigh(typing: Any, weights: Any, at: Any, maximum: Any, totals: Any, total: Any) -> Any:
    """exp of WIDTH numbers less the maximum, in their place, added to LANES totals."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = start_of(context, builder, signature.args[0], *values[:2])
        sums = start_of(context, builder, signature.args[3], *values[3:])
        largest, zero = broadcast(builder, values[2]), ir.Constant(INDEX, 0)
        total = load(builder, sums, zero)
        for column in range(0, WIDTH, LANES):
            place = ir.Constant(INDEX, column)
            made = _exp(builder, builder.fsub(load(builder, start, place), largest))
            store(builder, made, start, place)
            total = builder.fadd(total, made)
        store(builder, total, sums, zero)
        return context.get_dummy_value()

    i = types.int64
    return types.void(weights, i, types.float32, totals, i), generate


@intrinsic  # type: ignore[untyped-decorator]
def _shrink(typing: Any, numbers: Any, at: Any, factor: Any) -> Any:
    """LANES numbers times the factor."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = start_of(context, builder, signature.args[0], *values[:2])
        zero = ir.Constant(INDEX, 0)
        product = builder.fmul(load(builder, start, zero), broadcast(builder, values[2]))
        store(builder, product, start, zero)
        return context.get_dummy_value()

    return types.void(numbers, types.int64, types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _total(typing: Any, totals: Any, at: Any) -> Any:
    """The sum of LANES numbers."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = start_of(context, builder, signature.args[0], *values)
        return join_lanes(builder, load(builder, start, ir.Constant(INDEX, 0)), _sum)

    return types.float32(totals, types.int64), generate


@compiled
def divide(made: Any, rows: Any, row: int) -> None:
    """A row's result, once all blocks are in."""
    total, line = _total(rows.totals, row * LANES), row * rows.length
    for d in range(len(made)):
        made[d] = rows.sums[line + d] / total


def _sum(builder: Any, first: Any, second: Any) -> Any:
    return builder.fadd(first, second)


def _exp(builder: Any, x: Any) -> Any:
    """`exponential.exp` of a vector."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    is_small = builder.fcmp_ordered("<", x, _all(exponential.LEAST))
    bounded = builder.select(is_small, _all(exponential.LEAST), x)
    shifted = builder.call(fma, [bounded, _all(exponential.LOG2_E), _all(exponential.ROUNDER)])
    whole = builder.fsub(shifted, _all(exponential.ROUNDER))
    rest = builder.call(fma, [whole, _all(-exponential.LN_2_HIGH), bounded])
    rest = builder.call(fma, [whole, _all(-exponential.LN_2_LOW), rest])
    series = _all(exponential.SERIES[0])
    for factor in exponential.SERIES[1:]:
        series = builder.call(fma, [series, rest, _all(factor)])
    series = builder.call(fma, [builder.fmul(series, rest), rest, rest])
    series = builder.fadd(series, _all(1.0))
    bits = builder.shl(builder.bitcast(shifted, WORDS), _all_words(exponential.MANTISSA_BITS))
    power = builder.bitcast(builder.add(bits, _all_words(exponential.ONE)), VECTOR)
    return builder.select(is_small, _all(0.0), builder.fmul(series, power))


def _all(number: Any) -> Any:
    return ir.Constant(VECTOR, [float(number)] * LANES)


def _all_words(number: Any) -> Any:
    return ir.Constant(WORDS, [int(number)] * LANES)

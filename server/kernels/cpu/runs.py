"""Sums over the entries of a sparse delta, in registers.

Entries lie in slices of `LANES` rows (`operands.py`): step by step, each row of the slice has a run
of `run` values in neighbouring columns, beginning at a column of its own. Sums go along a row's
steps, one product after the other and each with one rounding, whether `LANES` rows are summed at a
time or `LANES` tokens: a sum has the same bits both ways.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.pointers import load_widened
from server.kernels.cpu.vectors import (
    INDEX,
    LANES,
    UNDEFINED,
    VECTOR,
    WORD,
    broadcast,
    load,
    start_of,
    store,
)

LANE_COUNT, ZERO, ONE = ir.Constant(INDEX, LANES), ir.Constant(INDEX, 0), ir.Constant(INDEX, 1)
HALF_WORD = ir.IntType(16)


class _Slice:
    """Where the steps of one slice begin, and what its loops need of them."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        args = signature.args
        self.sums = start_of(context, builder, args[0], values[0], ZERO)
        self.values, self.dtype, self.values_at = values[1], values[2], values[10]
        self.columns = start_of(context, builder, args[3], values[3], values[4])
        self.x = start_of(context, builder, args[5], values[5], values[6])
        self.steps, self.run, self.lane = values[7:10]

    def column(self, builder: Any, step: Any, lane: Any) -> Any:
        at = builder.add(builder.mul(step, LANE_COUNT), lane)
        return builder.zext(builder.load(builder.gep(self.columns, [at])), INDEX)


Products = Callable[[Any, _Slice, Any, Any, Any], tuple[Any, Any]]


def _of_rows(builder: Any, own: _Slice, step: Any, inner: Any, at: Any) -> tuple[Any, Any]:
    """Values of all rows of the slice, and what each is multiplied by."""
    factors = UNDEFINED
    for number in range(LANES):
        lane = ir.Constant(INDEX, number)
        column = builder.add(own.column(builder, step, lane), inner)
        factor = builder.load(builder.gep(own.x, [column]))
        factors = builder.insert_element(factors, factor, ir.Constant(WORD, number))
    return load_widened(builder, own.values, own.dtype, at, LANES), factors


def _of_tokens(builder: Any, own: _Slice, step: Any, inner: Any, at: Any) -> tuple[Any, Any]:
    """The value of one row, and what it is multiplied by for every token."""
    value = load_widened(builder, own.values, own.dtype, builder.add(at, own.lane), 1)
    column = builder.add(own.column(builder, step, own.lane), inner)
    factors = load(builder, own.x, builder.mul(column, LANE_COUNT))
    return broadcast(builder, value), factors


def _sum_over(products: Products) -> Any:
    """`(sums, values, dtype, columns, columns_at, x, x_at, steps, run, lane, values_at)`.

    Fills `sums`. `values` is an address, `dtype` tells what is stored there.
    """

    def sums_of(
        typing: Any,
        sums: Any,
        values: Any,
        dtype: Any,
        columns: Any,
        columns_at: Any,
        x: Any,
        x_at: Any,
        steps: Any,
        run: Any,
        lane: Any,
        values_at: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            own = _Slice(context, builder, signature, arguments)
            kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
            total = cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * LANES))
            builder.store(ir.Constant(VECTOR, [0.0] * LANES), total)
            with (
                cgutils.for_range(builder, own.steps) as outer,
                cgutils.for_range(builder, own.run) as inner,
            ):
                number = builder.add(builder.mul(outer.index, own.run), inner.index)
                at = builder.add(builder.mul(number, LANE_COUNT), own.values_at)
                pair = products(builder, own, outer.index, inner.index, at)
                builder.store(builder.call(fma, [*pair, builder.load(total)]), total)
            store(builder, builder.load(total), own.sums, ZERO)
            return context.get_dummy_value()

        i = types.int64
        return types.void(sums, i, i, columns, i, x, i, i, i, i, i), generate

    return intrinsic(sums_of)


sum_rows, sum_tokens = _sum_over(_of_rows), _sum_over(_of_tokens)

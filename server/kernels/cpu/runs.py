"""Sums over the entries of a sparse delta, in registers.

Entries lie in slices of `LANES` rows (`operands.py`): step by step, each row of the slice has a run
of `run` values in neighbouring columns, beginning at a column of its own; in tiles, at the same
column. Products are summed along a row's steps, each with one rounding: a run of a multiple of
`CHAINS` values in as many sums, each of which waits for its own last product only, and which are
added up at the end. Whether `LANES` rows are summed at a time or `LANES` tokens, a sum has the same
bits.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.pointers import by_stored, load_stored
from server.kernels.cpu.vectors import (
    INDEX,
    LANES,
    NOTHING,
    UNDEFINED,
    WORD,
    broadcast,
    fma,
    load,
    start_of,
    store,
)

CHAINS = 4
ROWS = 4  # of a slice that are summed at a time for many tokens
LANE_COUNT, ZERO, ONE = ir.Constant(INDEX, LANES), ir.Constant(INDEX, 0), ir.Constant(INDEX, 1)


class _Slice:
    """Where the steps of one slice begin, and what its loops need of them."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any, code: int) -> None:
        args = signature.args
        self.sums = start_of(context, builder, args[0], values[0], ZERO)
        self.values, self.code, self.values_at = values[1], code, values[10]
        self.columns = start_of(context, builder, args[3], values[3], values[4])
        self.x = start_of(context, builder, args[5], values[5], values[6])
        self.steps, self.run, self.lane = values[7:10]

    def column(self, builder: Any, step: Any, lane: Any) -> Any:
        at = builder.add(builder.mul(step, LANE_COUNT), lane)
        return builder.zext(builder.load(builder.gep(self.columns, [at])), INDEX)

    def tokens(self, builder: Any, column: Any, inner: Any) -> Any:
        """An activation of every token."""
        return load(builder, self.x, builder.mul(builder.add(column, inner), LANE_COUNT))

    def value(self, builder: Any, at: Any, lane: Any) -> Any:
        return broadcast(builder, self.numbers(builder, builder.add(at, lane), 1))

    def numbers(self, builder: Any, at: Any, lanes: int) -> Any:
        return load_stored(builder, self.values, self.code, at, lanes)


Factors = list[tuple[Any, Any]]  # of each sum that is taken at once
Products = Callable[[Any, _Slice, Any, Any, Any], Factors]


def _of_rows(builder: Any, own: _Slice, step: Any, inner: Any, at: Any) -> Factors:
    """Values of all rows of the slice, and what each is multiplied by."""
    factors = UNDEFINED
    for number in range(LANES):
        lane = ir.Constant(INDEX, number)
        column = builder.add(own.column(builder, step, lane), inner)
        factor = builder.load(builder.gep(own.x, [column]))
        factors = builder.insert_element(factors, factor, ir.Constant(WORD, number))
    return [(own.numbers(builder, at, LANES), factors)]


def _of_tile(builder: Any, own: _Slice, step: Any, inner: Any, at: Any) -> Factors:
    """The same where all rows have the same columns."""
    column = builder.add(own.column(builder, step, ZERO), inner)
    factor = builder.load(builder.gep(own.x, [column]))
    return [(own.numbers(builder, at, LANES), broadcast(builder, factor))]


def _of_tokens(builder: Any, own: _Slice, step: Any, inner: Any, at: Any) -> Factors:
    """The values of some rows, and what each is multiplied by for every token."""
    lanes = [builder.add(own.lane, ir.Constant(INDEX, row)) for row in range(ROWS)]
    columns = [own.column(builder, step, lane) for lane in lanes]
    return [
        (own.value(builder, at, lane), own.tokens(builder, column, inner))
        for lane, column in zip(lanes, columns, strict=True)
    ]


def _of_tile_tokens(builder: Any, own: _Slice, step: Any, inner: Any, at: Any) -> Factors:
    """The same where all rows have the same columns."""
    factors = own.tokens(builder, own.column(builder, step, ZERO), inner)
    lanes = [builder.add(own.lane, ir.Constant(INDEX, row)) for row in range(ROWS)]
    return [(own.value(builder, at, lane), factors) for lane in lanes]


def _sum(builder: Any, own: _Slice, products: Products, sums: int, run: Any, chains: int) -> None:
    """Fill the slice's `sums` vectors of sums; `run` is a multiple of `chains`."""
    totals = [
        [cgutils.alloca_once_value(builder, NOTHING) for _ in range(chains)] for _ in range(sums)
    ]
    for total in chain.from_iterable(totals):
        builder.store(NOTHING, total)
    count = builder.udiv(run, ir.Constant(INDEX, chains))
    with (
        cgutils.for_range(builder, own.steps) as outer,
        cgutils.for_range(builder, count) as group,
    ):
        for number in range(chains):
            first = builder.mul(group.index, ir.Constant(INDEX, chains))
            inner = builder.add(first, ir.Constant(INDEX, number))
            place = builder.add(builder.mul(outer.index, run), inner)
            at = builder.add(builder.mul(place, LANE_COUNT), own.values_at)
            pairs = products(builder, own, outer.index, inner, at)
            for pair, total in zip(pairs, (those[number] for those in totals), strict=True):
                builder.store(fma(builder, *pair, builder.load(total)), total)
    for at, those in enumerate(totals):
        joined = _joined(builder, [builder.load(total) for total in those])
        store(builder, joined, own.sums, ir.Constant(INDEX, at * LANES))


def _joined(builder: Any, sums: list[Any]) -> Any:
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [builder.fadd(sums[i], sums[i + half]) for i in range(half)]
    return sums[0]


def _sum_by_run(builder: Any, own: _Slice, products: Products, sums: int) -> None:
    """By a loop of its own for runs of one, in which the compiler knows that they are."""
    rest = builder.urem(own.run, ir.Constant(INDEX, CHAINS))
    with builder.if_else(builder.icmp_unsigned("==", own.run, ONE)) as (is_one, is_run):
        with is_one:
            _sum(builder, own, products, sums, ONE, 1)
        with (
            is_run,
            builder.if_else(builder.icmp_unsigned("==", rest, ZERO)) as (is_whole, is_odd),
        ):
            with is_whole:
                _sum(builder, own, products, sums, own.run, CHAINS)
            with is_odd:
                _sum(builder, own, products, sums, own.run, 1)


def _sum_in_chains(builder: Any, own: _Slice, products: Products, sums: int) -> None:
    _sum(builder, own, products, sums, own.run, CHAINS)


Emit = Callable[[Any, _Slice, Products, int], None]


def _sum_over(products: Products, emit: Emit, vectors: int = 1) -> Any:
    """`(sums, values, dtype, columns, columns_at, x, x_at, steps, run, lane, values_at)`.

    Fills as many `vectors` of `sums`. `values` is an address, `dtype` tells what is stored there.
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
            def write(code: int) -> None:
                own = _Slice(context, builder, signature, arguments, code)
                emit(builder, own, products, vectors)

            by_stored(builder, arguments[2], write)
            return context.get_dummy_value()

        i = types.int64
        return types.void(sums, i, i, columns, i, x, i, i, i, i, i), generate

    return intrinsic(sums_of)


sum_rows = _sum_over(_of_rows, _sum_by_run)
sum_tile = _sum_over(_of_tile, _sum_in_chains)  # of runs of a multiple of CHAINS
sum_tokens = _sum_over(_of_tokens, _sum_by_run, ROWS)  # of the rows `[lane, lane + ROWS)`
sum_tile_tokens = _sum_over(_of_tile_tokens, _sum_in_chains, ROWS)

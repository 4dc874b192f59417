"""Products with low-rank deltas: inner products with A's rows, then B's columns times these.

Numbers are widened on their way into a register. A product has the same bits whatever else is in
the step.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.operands import (
    DTYPE,
    FIRST,
    INNER,
    KIND,
    LOW_RANK,
    SECOND,
    SEGMENT,
    SIZE,
    STRIDE,
)
from server.kernels.cpu.pointers import FP32, by_stored, load_stored, prefetch_bytes, widen_number
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import (
    INDEX,
    LANES,
    NOTHING,
    add_product,
    broadcast,
    fma,
    join_lanes,
    load,
    start_of,
    store,
)

SHARES = 4  # that an adapter's tokens are cut into, for as many tasks
CHAINS = 4  # sums at a time, each of which waits for its own last product only


@compiled
def place_inner(table: Any, offsets: Any) -> int:
    """Set where each low-rank operand's inner products go, pair by pair; how many there are."""
    total = 0
    for at in range(len(table)):
        if table[at, KIND] == LOW_RANK:
            table[at, INNER] = total
            segment = table[at, SEGMENT]
            total += (offsets[segment + 1] - offsets[segment]) * table[at, SIZE]
    return total


@compiled
def inner_products(table: Any, pairs: Any, inner: Any, threads: int) -> None:
    """Fill `inner` with `A @ x` of every pair of every low-rank operand."""
    run_tasks(_inner_products, len(table) * SHARES, threads, (table, pairs, inner))


@compiled
def _inner_products(task: int, table: Any, pairs: Any, inner: Any) -> None:
    own, share = table[task // SHARES], task % SHARES
    if own[KIND] != LOW_RANK:
        return
    start, past = pairs.offsets[own[SEGMENT]], pairs.offsets[own[SEGMENT] + 1]
    x, width, rank = pairs.x.reshape(-1), pairs.x.shape[1], own[SIZE]
    whole, a, dtype = width // LANES, own[FIRST], own[DTYPE]
    for pair in range(
        start + (past - start) * share // SHARES, start + (past - start) * (share + 1) // SHARES
    ):
        x_at, to = pairs.tokens[pair] * width, own[INNER] + (pair - start) * rank
        for k in range(rank):
            total = _dot(a, dtype, k * width, x, x_at, whole)
            for i in range(whole * LANES, width):
                total += widen_number(a, dtype, k * width + i) * x[x_at + i]
            inner[to + k] = total


@compiled
def add_panel(own: Any, scale: Any, rows: Any, pairs: Any, inner: Any, wide: Any) -> None:
    """Add B's rows `[rows[0], rows[1])` times the inner products to every pair's token."""
    start, past = pairs.offsets[own[SEGMENT]], pairs.offsets[own[SEGMENT] + 1]
    count, width, y = rows[1] - rows[0], pairs.y.shape[1], pairs.y.reshape(-1)
    b, dtype, stride, rank = own[SECOND], own[DTYPE], own[STRIDE], own[SIZE]
    whole = count // (CHAINS * LANES) * CHAINS * LANES
    for pair in range(start, past):
        factors = own[INNER] + (pair - start) * rank
        for row in range(0, whole, CHAINS * LANES):
            _sum_columns(wide, row, b, dtype, rows[0] + row, stride, inner, factors, rank)
        for row in range(whole, count, LANES):
            _sum_last_columns(wide, row, b, dtype, rows[0] + row, stride, inner, factors, rank)
        share = pairs.coefficients[pair] * scale
        add_product(y, pairs.tokens[pair] * width + rows[0], share, wide, 0, count)


@compiled
def send_for_panel(own: Any, rows: Any) -> None:
    """Have B's numbers that `add_panel` reads brought near."""
    size = 4 if own[DTYPE] == FP32 else 2
    for k in range(own[SIZE]):
        row = k * own[STRIDE]
        prefetch_bytes(own[SECOND], (row + rows[0]) * size, (row + rows[1]) * size)


@intrinsic  # type: ignore[untyped-decorator]
def _dot(typing: Any, stored: Any, dtype: Any, first: Any, x: Any, x_at: Any, vectors: Any) -> Any:
    """Sum of the products of so many vectors, the first `first` numbers after an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, dtype, first, x, x_at, vectors = arguments
        own = start_of(context, builder, signature.args[3], x, x_at)
        sums = [cgutils.alloca_once_value(builder, NOTHING) for _ in range(CHAINS)]
        for total in sums:
            builder.store(NOTHING, total)
        whole = builder.udiv(vectors, ir.Constant(INDEX, CHAINS))

        def add(code: int, vector: Any, total: Any) -> None:
            at = builder.mul(vector, ir.Constant(INDEX, LANES))
            number = load_stored(builder, address, code, builder.add(first, at), LANES)
            product = fma(builder, number, load(builder, own, at), builder.load(total))
            builder.store(product, total)

        def emit(code: int) -> None:
            with cgutils.for_range(builder, whole) as loop:
                group = builder.mul(loop.index, ir.Constant(INDEX, CHAINS))
                for chain, total in enumerate(sums):
                    add(code, builder.add(group, ir.Constant(INDEX, chain)), total)
            done = builder.mul(whole, ir.Constant(INDEX, CHAINS))
            with cgutils.for_range(builder, builder.sub(vectors, done)) as loop:
                add(code, builder.add(done, loop.index), sums[0])

        by_stored(builder, dtype, emit)
        first_half, second_half = (
            builder.fadd(builder.load(sums[i]), builder.load(sums[i + 1])) for i in (0, 2)
        )
        return join_lanes(builder, builder.fadd(first_half, second_half), _added)

    i = types.int64
    return types.float32(i, i, i, x, i, i), generate


def _added(builder: Any, first: Any, second: Any) -> Any:
    return builder.fadd(first, second)


def _summing_columns(vectors: int) -> Any:
    """`(sums, at, stored, dtype, first, stride, factors, factors_at, rank)`: rows of B.

    Fills `sums[at]` and what follows, `vectors` of it.
    """

    def summed(
        typing: Any,
        sums: Any,
        at: Any,
        stored: Any,
        dtype: Any,
        first: Any,
        stride: Any,
        factors: Any,
        factors_at: Any,
        rank: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            to = start_of(context, builder, signature.args[0], *arguments[:2])
            address, dtype, first, stride = arguments[2:6]
            own = start_of(context, builder, signature.args[6], *arguments[6:8])
            totals = [cgutils.alloca_once_value(builder, NOTHING) for _ in range(vectors)]
            for total in totals:
                builder.store(NOTHING, total)

            def emit(code: int) -> None:
                with cgutils.for_range(builder, arguments[8]) as loop:
                    factor = broadcast(builder, builder.load(builder.gep(own, [loop.index])))
                    row = builder.add(first, builder.mul(loop.index, stride))
                    for number, total in enumerate(totals):
                        place = builder.add(row, ir.Constant(INDEX, number * LANES))
                        column = load_stored(builder, address, code, place, LANES)
                        builder.store(fma(builder, factor, column, builder.load(total)), total)

            by_stored(builder, dtype, emit)
            for number, total in enumerate(totals):
                store(builder, builder.load(total), to, ir.Constant(INDEX, number * LANES))
            return context.get_dummy_value()

        i = types.int64
        return types.void(sums, i, i, i, i, i, factors, i, i), generate

    return intrinsic(summed)


_sum_columns, _sum_last_columns = _summing_columns(CHAINS), _summing_columns(1)

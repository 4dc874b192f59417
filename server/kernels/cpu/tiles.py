"""Products of small matrices in registers.

`multiply` adds, for every element of its result, one product after the other, in the order of the
inner dimension and each with one rounding. So an element's bits depend on its own row and column,
never on how many rows are multiplied at a time.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import (
    INDEX,
    LANES,
    VECTOR,
    bring,
    broadcast,
    load,
    start_of,
    store,
)


def _tile(rows: int, vectors: int) -> Any:
    """`tile(c, c_at, c_step, a, a_at, a_step, b, b_at, b_step, depth, far, far_at)`: C += A B.

    C `[rows, vectors * LANES]`, A `[rows, depth]` and B `[depth, vectors * LANES]` begin at these
    elements of flat arrays; their own rows are `_step` elements apart. On the way as many numbers
    as B has are brought near, of the flat array `far`, from `far_at` on.
    """

    def tile(
        typing: Any,
        c: Any,
        c_at: Any,
        c_step: Any,
        a: Any,
        a_at: Any,
        a_step: Any,
        b: Any,
        b_at: Any,
        b_step: Any,
        depth: Any,
        far: Any,
        far_at: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            coming = start_of(context, builder, signature.args[10], values[10], values[11])

            def bring_row(k: Any) -> None:
                first = builder.mul(k, ir.Constant(INDEX, vectors * LANES))
                for column in range(0, vectors * LANES, LANES):
                    place = builder.add(first, ir.Constant(INDEX, column))
                    bring(builder, builder.gep(coming, [place]))

            def matrix(array: int, column: int = 0) -> Matrix:
                kind, (at, step) = signature.args[array], values[array + 1 : array + 3]
                at = builder.add(at, ir.Constant(INDEX, column))
                return Matrix(start_of(context, builder, kind, values[array], at), step)

            parts = [matrix(6, vector * LANES) for vector in range(vectors)]
            accumulate(builder, rows, matrix(0), matrix(3), parts, values[9], bring_row)
            return context.get_dummy_value()

        i = types.int64
        return types.void(c, i, i, a, i, i, b, i, i, i, far, i), generate

    return intrinsic(tile)


class Matrix:
    """Rows that are `step` numbers apart, from the address `start` on."""

    def __init__(self, start: Any, step: Any) -> None:
        self.start, self.step = start, step

    def at(self, builder: Any, row: Any, column: Any) -> Any:
        return builder.add(builder.mul(row, self.step), column)


def accumulate(
    builder: Any,
    rows: int,
    c: Matrix,
    a: Matrix,
    parts: list[Matrix],
    depth: Any,
    meanwhile: Callable[[Any], None] = lambda k: None,
) -> None:
    """C += A B, where each of B's `parts` is `[depth, LANES]`. C stays in registers meanwhile.

    `meanwhile` writes what else is to be done for each row of B, whose number it is given.
    """
    zero, one = ir.Constant(INDEX, 0), ir.Constant(INDEX, 1)
    columns = [ir.Constant(INDEX, vector * LANES) for vector in range(len(parts))]
    numbers = [ir.Constant(INDEX, row) for row in range(rows)]
    places = [c.at(builder, row, column) for row in numbers for column in columns]
    initial = [load(builder, c.start, place) for place in places]
    entry = builder.block
    loop, after = (builder.append_basic_block(name) for name in ("depth", "multiplied"))
    builder.branch(loop)
    builder.position_at_end(loop)
    k, sums = builder.phi(INDEX), [builder.phi(VECTOR) for _ in places]
    meanwhile(k)
    results = _added(builder, sums, numbers, a, parts, k)
    following = builder.add(k, one)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    for phi, first, later in zip([k, *sums], [zero, *initial], [following, *results], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, loop)
    builder.position_at_end(after)
    for place, result in zip(places, results, strict=True):
        store(builder, result, c.start, place)


def _added(
    builder: Any, sums: list[Any], rows: list[Any], a: Matrix, parts: list[Matrix], k: Any
) -> list[Any]:
    """`sums` with the products of column k of A and row k of B."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    zero = ir.Constant(INDEX, 0)
    vectors = [load(builder, part.start, part.at(builder, k, zero)) for part in parts]
    factors = [
        broadcast(builder, builder.load(builder.gep(a.start, [a.at(builder, row, k)])))
        for row in rows
    ]
    pairs = [(factor, vector) for factor in factors for vector in vectors]
    return [builder.call(fma, [*pair, sum_]) for pair, sum_ in zip(pairs, sums, strict=True)]


_of_8, _of_4, _of_3, _of_2, _of_1 = (_tile(rows, 2) for rows in (8, 4, 3, 2, 1))
_wide_of_4, _wide_of_3, _wide_of_2, _wide_of_1 = (_tile(rows, 4) for rows in (4, 3, 2, 1))


@compiled
def multiply(
    c: Any,
    c_at: int,
    c_step: int,
    a: Any,
    a_at: int,
    a_step: int,
    b: Any,
    b_at: int,
    b_step: int,
    rows: int,
    depth: int,
    far: Any,
    far_at: int,
) -> None:
    """C `[rows, WIDTH]` += A `[rows, depth]` B `[depth, WIDTH]`, flat arrays; depth > 0.

    As many numbers as B has are brought near meanwhile, of `far` from `far_at` on.
    """
    row = 0
    while row < rows:
        left, to, at = rows - row, c_at + row * c_step, a_at + row * a_step
        if left >= 8:
            _of_8(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 8
        elif left >= 4:
            _of_4(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 4
        elif left == 3:
            _of_3(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 3
        elif left == 2:
            _of_2(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 2
        else:
            _of_1(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 1


@compiled
def multiply_wide(
    c: Any,
    c_at: int,
    c_step: int,
    a: Any,
    a_at: int,
    a_step: int,
    b: Any,
    b_at: int,
    b_step: int,
    rows: int,
    depth: int,
    far: Any,
    far_at: int,
) -> None:
    """The same for `2 * WIDTH` columns: B's rows are read from end to end."""
    row = 0
    while row < rows:
        left, to, at = rows - row, c_at + row * c_step, a_at + row * a_step
        if left >= 4:
            _wide_of_4(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 4
        elif left == 3:
            _wide_of_3(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 3
        elif left == 2:
            _wide_of_2(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 2
        else:
            _wide_of_1(c, to, c_step, a, at, a_step, b, b_at, b_step, depth, far, far_at)
            row += 1

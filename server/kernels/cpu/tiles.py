"""Products of small matrices in registers.

`multiply` adds, for every element of its result, one product after the other, in the order of the
inner dimension and each with one rounding. So an element's bits depend on its own row and column,
never on how many rows are multiplied at a time.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import INDEX, LANES, VECTOR, WIDTH, broadcast, load, start_of, store

VECTORS = WIDTH // LANES


def _tile(rows: int) -> Any:
    """`tile(c, c_at, c_step, a, a_at, a_step, b, b_at, b_step, depth)`: C += A B.

    C `[rows, WIDTH]`, A `[rows, depth]` and B `[depth, WIDTH]` begin at the elements `_at` of flat
    arrays; their own rows are `_step` elements apart.
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
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            c, a, b = (
                _Matrix(
                    start_of(context, builder, signature.args[i], *values[i : i + 2]),
                    values[i + 2],
                )
                for i in (0, 3, 6)
            )
            _accumulate(builder, rows, c, a, b, values[9])
            return context.get_dummy_value()

        at = [types.int64] * 2
        return types.void(c, *at, a, *at, b, *at, types.int64), generate

    return intrinsic(tile)


class _Matrix:
    """Rows that are `step` numbers apart, from the address `start` on."""

    def __init__(self, start: Any, step: Any) -> None:
        self.start, self.step = start, step

    def at(self, builder: Any, row: Any, column: Any) -> Any:
        return builder.add(builder.mul(row, self.step), column)


def _accumulate(builder: Any, rows: int, c: _Matrix, a: _Matrix, b: _Matrix, depth: Any) -> None:
    """C stays in registers while a loop goes along the depth."""
    zero, one = ir.Constant(INDEX, 0), ir.Constant(INDEX, 1)
    columns = [ir.Constant(INDEX, vector * LANES) for vector in range(VECTORS)]
    numbers = [ir.Constant(INDEX, row) for row in range(rows)]
    places = [c.at(builder, row, column) for row in numbers for column in columns]
    initial = [load(builder, c.start, place) for place in places]
    entry = builder.block
    loop, after = (builder.append_basic_block(name) for name in ("depth", "multiplied"))
    builder.branch(loop)
    builder.position_at_end(loop)
    k, sums = builder.phi(INDEX), [builder.phi(VECTOR) for _ in places]
    results = _added(builder, sums, numbers, columns, a, b, k)
    following = builder.add(k, one)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    for phi, first, later in zip([k, *sums], [zero, *initial], [following, *results], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, loop)
    builder.position_at_end(after)
    for place, result in zip(places, results, strict=True):
        store(builder, result, c.start, place)


def _added(
    builder: Any,
    sums: list[Any],
    rows: list[Any],
    columns: list[Any],
    a: _Matrix,
    b: _Matrix,
    k: Any,
) -> list[Any]:
    """`sums` with the products of column k of A and row k of B."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    vectors = [load(builder, b.start, b.at(builder, k, column)) for column in columns]
    factors = [
        broadcast(builder, builder.load(builder.gep(a.start, [a.at(builder, row, k)])))
        for row in rows
    ]
    pairs = [(factor, vector) for factor in factors for vector in vectors]
    return [builder.call(fma, [*pair, sum_]) for pair, sum_ in zip(pairs, sums, strict=True)]


_tile_of_8, _tile_of_4, _tile_of_3, _tile_of_2, _tile_of_1 = map(_tile, (8, 4, 3, 2, 1))


@compiled
def multiply(
    c: Any,
    c_step: int,
    a: Any,
    a_step: int,
    b: Any,
    b_step: int,
    rows: int,
    width: int,
    depth: int,
) -> None:
    """C `[rows, width]` += A `[rows, depth]` B `[depth, width]`, flat arrays; depth > 0.

    The width is a multiple of WIDTH.
    """
    row = 0
    while row < rows:
        left = rows - row
        for n in range(0, width, WIDTH):
            to, at = row * c_step + n, row * a_step
            if left >= 8:
                _tile_of_8(c, to, c_step, a, at, a_step, b, n, b_step, depth)
            elif left >= 4:
                _tile_of_4(c, to, c_step, a, at, a_step, b, n, b_step, depth)
            elif left == 3:
                _tile_of_3(c, to, c_step, a, at, a_step, b, n, b_step, depth)
            elif left == 2:
                _tile_of_2(c, to, c_step, a, at, a_step, b, n, b_step, depth)
            else:
                _tile_of_1(c, to, c_step, a, at, a_step, b, n, b_step, depth)
        row += 8 if left >= 8 else (4 if left >= 4 else left)

"""Vectors of `LANES` fp32 numbers, for what Numba's loops cannot say well.

Written as LLVM's own instructions, which every machine has: on narrower ones LLVM makes several of
one. Arrays are flat fp32 ones; places in them are counted in numbers.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import compiled

LANES = 16
WIDTH = 2 * LANES  # numbers of a row that are summed up, or multiplied, at a time

FLOAT, WORD, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
VECTOR = ir.VectorType(FLOAT, LANES)
UNDEFINED = ir.Constant(VECTOR, ir.Undefined)
NOTHING = ir.Constant(VECTOR, [0.0] * LANES)


def start_of(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """The address of element `at` of an array of the Numba type `kind`."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def load(builder: Any, start: Any, at: Any) -> Any:
    """The vector that begins `at` numbers after `start`."""
    return builder.load(_vector_at(builder, start, at), align=4)


def store(builder: Any, vector: Any, start: Any, at: Any) -> None:
    """Write what `load` would then give."""
    builder.store(vector, _vector_at(builder, start, at), align=4)


def broadcast(builder: Any, number: Any) -> Any:
    """A vector of nothing but `number`."""
    single = builder.insert_element(UNDEFINED, number, ir.Constant(WORD, 0))
    return builder.shuffle_vector(single, UNDEFINED, _lanes([0] * LANES))


def fma(builder: Any, first: Any, second: Any, third: Any) -> Any:
    """`first * second + third` of vectors, rounded once."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    operation = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(operation, [first, second, third])


def _vector_at(builder: Any, start: Any, at: Any) -> Any:
    return builder.bitcast(builder.gep(start, [at]), VECTOR.as_pointer())


def _lanes(lanes: list[int]) -> Any:
    return ir.Constant(ir.VectorType(WORD, LANES), lanes)


@intrinsic  # type: ignore[untyped-decorator]
def _copy_vector(typing: Any, to: Any, to_at: Any, source: Any, source_at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, origin = (
            start_of(context, builder, signature.args[i], *values[i : i + 2]) for i in (0, 2)
        )
        zero = ir.Constant(INDEX, 0)
        store(builder, load(builder, origin, zero), target, zero)
        return context.get_dummy_value()

    return types.void(to, types.int64, source, types.int64), generate


@compiled
def copy(to: Any, to_at: int, source: Any, source_at: int, count: int) -> None:
    """`to[to_at : to_at + count] = source[source_at : source_at + count]`."""
    whole = count // LANES * LANES
    for at in range(0, whole, LANES):
        _copy_vector(to, to_at + at, source, source_at + at)
    for at in range(whole, count):
        to[to_at + at] = source[source_at + at]


@intrinsic  # type: ignore[untyped-decorator]
def _add_vector(typing: Any, to: Any, to_at: Any, factor: Any, numbers: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target = start_of(context, builder, signature.args[0], *values[:2])
        source = start_of(context, builder, signature.args[3], *values[3:])
        zero = ir.Constant(INDEX, 0)
        own, factors = load(builder, source, zero), broadcast(builder, values[2])
        store(builder, fma(builder, factors, own, load(builder, target, zero)), target, zero)
        return context.get_dummy_value()

    i = types.int64
    return types.void(to, i, types.float32, numbers, i), generate


@compiled
def add_product(to: Any, to_at: int, factor: Any, numbers: Any, at: int, count: int) -> None:
    """`to[to_at : to_at + count] += factor * numbers[at : at + count]`, rounded once."""
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        _add_vector(to, to_at + i, factor, numbers, at + i)
    for i in range(whole, count):
        to[to_at + i] += factor * numbers[at + i]


@intrinsic  # type: ignore[untyped-decorator]
def turn(typing: Any, numbers: Any, at: Any, to: Any, to_at: Any, stride: Any) -> Any:
    """Write the transpose of the square `[LANES, LANES]` at `numbers[at]`, whose rows adjoin.

    Its own rows go to `to[to_at]`, `to[to_at + stride]` and so on. Halves of vectors change
    places, then quarters, and so on.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source = start_of(context, builder, signature.args[0], *values[:2])
        target = start_of(context, builder, signature.args[2], *values[2:4])
        places = [ir.Constant(INDEX, row * LANES) for row in range(LANES)]
        rows = [load(builder, source, place) for place in places]
        width = LANES
        while width > 1:
            width //= 2
            rows = _with_swapped(builder, rows, width)
        for at, row in enumerate(rows):
            store(builder, row, target, builder.mul(ir.Constant(INDEX, at), values[4]))
        return context.get_dummy_value()

    i = types.int64
    return types.void(numbers, i, to, i, i), generate


def _with_swapped(builder: Any, rows: list[Any], width: int) -> list[Any]:
    """Of all pairs of rows `width` apart, upper numbers of the first and lower of the second."""
    lanes = range(LANES)
    lower = _lanes([lane if not lane & width else LANES + lane - width for lane in lanes])
    upper = _lanes([lane + width if not lane & width else LANES + lane for lane in lanes])
    made = list(rows)
    for row in range(LANES):
        if not row & width:
            pair = rows[row], rows[row + width]
            made[row] = builder.shuffle_vector(*pair, lower)
            made[row + width] = builder.shuffle_vector(*pair, upper)
    return made


def _across(joined: Any) -> Any:
    """An operation on `(numbers, at)`: WIDTH numbers from there on joined by halves."""

    def across(typing: Any, numbers: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            start = start_of(context, builder, signature.args[0], *values)
            halves = (load(builder, start, ir.Constant(INDEX, i)) for i in range(0, WIDTH, LANES))
            return join_lanes(builder, joined(builder, *halves), joined)

        return types.float32(numbers, types.int64), generate

    return intrinsic(across)


def join_lanes(builder: Any, vector: Any, joined: Any) -> Any:
    """All numbers of a vector made one by `joined(builder, first, second)`, halves by halves."""
    undefined, width = ir.Constant(vector.type, ir.Undefined), LANES
    while width > 1:
        width //= 2
        turned = _lanes([(lane + width) % LANES for lane in range(LANES)])
        vector = joined(builder, vector, builder.shuffle_vector(vector, undefined, turned))
    return builder.extract_element(vector, ir.Constant(WORD, 0))


def _sum(builder: Any, first: Any, second: Any) -> Any:
    return builder.fadd(first, second)


def _larger(builder: Any, first: Any, second: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", first, second), first, second)


sum_across, largest_across = _across(_sum), _across(_larger)  # the latter for numbers without NaN


def bring(builder: Any, address: Any) -> None:
    """Have the line of memory at an address brought near, while something else is computed."""
    kind = ir.FunctionType(ir.VoidType(), [BYTES, WORD, WORD, WORD])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    read, keep, data = (ir.Constant(WORD, number) for number in (0, 2, 1))
    builder.call(prefetch, [builder.bitcast(address, BYTES), read, keep, data])


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch_line(typing: Any, numbers: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bring(builder, start_of(context, builder, signature.args[0], *values))
        return context.get_dummy_value()

    return types.void(numbers, types.int64), generate


@compiled
def prefetch(numbers: Any, at: int, count: int) -> None:
    """Have `numbers[at : at + count]` brought near, while something else is computed."""
    for line in range(at, at + count, LANES):
        _prefetch_line(numbers, line)

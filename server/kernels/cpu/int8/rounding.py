"""Groups of fp32 numbers to bytes, in vectors."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from server.kernels.cpu.int8.bytes import BYTE, WORDS
from server.kernels.cpu.int8.grouped import GROUP
from server.kernels.cpu.vectors import (
    INDEX,
    LANES,
    VECTOR,
    broadcast,
    join_lanes,
    load,
    start_of,
)

MAGNITUDE = 0x7FFFFFFF  # the bits of fp32 but its sign
PARTS = range(0, GROUP, LANES)


@intrinsic  # type: ignore[untyped-decorator]
def highest_bits(typing: Any, numbers: Any, at: Any) -> Any:
    """The bits of the largest magnitude of a group; what is no finite number has higher ones."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = start_of(context, builder, signature.args[0], *values)
        mask = ir.Constant(WORDS, [MAGNITUDE] * LANES)
        parts = [
            builder.and_(builder.bitcast(part, WORDS), mask) for part in _parts(builder, start)
        ]
        return join_lanes(builder, _joined(builder, parts, _higher), _higher)

    return types.int32(numbers, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def round_to_bytes(typing: Any, numbers: Any, at: Any, factor: Any, made: Any, made_at: Any) -> Any:
    """A group times `factor`, to nearest and ties to even, written to `made`; its sum."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = start_of(context, builder, signature.args[0], *values[:2])
        target = start_of(context, builder, signature.args[3], *values[3:])
        factors = broadcast(builder, values[2])
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(VECTOR, [VECTOR]), f"llvm.rint.v{LANES}f32"
        )
        words = [
            builder.fptosi(builder.call(rint, [builder.fmul(part, factors)]), WORDS)
            for part in _parts(builder, start)
        ]
        for place, word in zip(PARTS, words, strict=True):
            kind = ir.VectorType(BYTE, LANES)
            to = builder.gep(target, [ir.Constant(INDEX, place)])
            builder.store(builder.trunc(word, kind), builder.bitcast(to, kind.as_pointer()), 1)
        return join_lanes(builder, _joined(builder, words, _sum), _sum)

    i = types.int64
    return types.int32(numbers, i, types.float32, made, i), generate


def _parts(builder: Any, start: Any) -> list[Any]:
    return [load(builder, start, ir.Constant(INDEX, place)) for place in PARTS]


def _joined(builder: Any, vectors: list[Any], join: Any) -> Any:
    joined = vectors[0]
    for vector in vectors[1:]:
        joined = join(builder, joined, vector)
    return joined


def _higher(builder: Any, first: Any, second: Any) -> Any:
    return builder.select(builder.icmp_signed(">", first, second), first, second)


def _sum(builder: Any, first: Any, second: Any) -> Any:
    return builder.add(first, second)

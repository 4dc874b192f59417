"""Dot products of four bytes in every lane of a vector, added to whole numbers.

Where the processor has an instruction for it (AVX-512 VNNI) that is used; elsewhere LLVM makes the
same numbers of what it finds. Whole numbers are exact, so both give the same bits.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from server.kernels.cpu.vectors import LANES, WORD

DEPTH = 4  # bytes of a lane
BYTE = ir.IntType(8)
WORDS, BYTES = ir.VectorType(WORD, LANES), ir.VectorType(BYTE, LANES * DEPTH)
FEATURE, INSTRUCTION = "+avx512vnni", "llvm.x86.avx512.vpdpbusd.512"


def add_dots(context: Any, builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """`sums` and the dots of the bytes of two vectors of words, the first's without a sign."""
    processor_features = context.codegen().magic_tuple()[2]  # what kept code is kept for
    add = _added_at_once if FEATURE in processor_features else _added_in_steps
    return add(builder, sums, unsigned, signed)


def _added_at_once(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    kind = ir.FunctionType(WORDS, [WORDS] * 3)
    instruction = cgutils.get_or_insert_function(builder.module, kind, INSTRUCTION)
    return builder.call(instruction, [sums, unsigned, signed])


def _added_in_steps(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    wide = ir.VectorType(WORD, LANES * DEPTH)
    first = builder.zext(builder.bitcast(unsigned, BYTES), wide)
    second = builder.sext(builder.bitcast(signed, BYTES), wide)
    products = builder.mul(first, second)
    for stride in (DEPTH // 2, 1):  # halves the numbers of a lane, then again
        products = _joined(builder, products, stride)
    return builder.add(sums, products)


def _joined(builder: Any, numbers: Any, count: int) -> Any:
    """Every two neighbours added up, which leaves `count` numbers of a lane."""
    undefined = ir.Constant(numbers.type, ir.Undefined)
    halves = (
        builder.shuffle_vector(numbers, undefined, _every_second(first, LANES * count))
        for first in (0, 1)
    )
    return builder.add(*halves)


def _every_second(first: int, count: int) -> Any:
    places = [first + 2 * place for place in range(count)]
    return ir.Constant(ir.VectorType(WORD, count), places)

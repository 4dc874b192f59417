"""Arrays by their addresses, and stored numbers as fp32, in compiled code.

A mixed batch has any number of operands, which Numba's arguments cannot be. So a loop gets a table
of addresses, and makes arrays of them again. Whoever calls it keeps the memory alive.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from server.kernels.cpu.vectors import FLOAT, WORD


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing: Any, address: Any) -> Any:
    """What `numba.carray` takes, of a whole number."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def widened(typing: Any, number: Any) -> Any:
    """fp32 of a stored number: of fp32 itself, bf16 as uint16, fp16 as int16."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return widen(builder, signature.args[0], values[0])

    return types.float32(number), generate


def widen(builder: Any, kind: Any, number: Any) -> Any:
    """The same, of a number or a vector of the Numba type `kind`."""
    if kind == types.float32:
        return number
    lanes = number.type.count if isinstance(number.type, ir.VectorType) else None

    def as_many(element: Any) -> Any:
        return element if lanes is None else ir.VectorType(element, lanes)

    if kind == types.int16:
        return builder.fpext(builder.bitcast(number, as_many(ir.HalfType())), as_many(FLOAT))
    bits = builder.zext(number, as_many(WORD))
    places = ir.Constant(as_many(WORD), 16 if lanes is None else [16] * lanes)
    return builder.bitcast(builder.shl(bits, places), as_many(FLOAT))

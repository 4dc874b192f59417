"""Arrays by their addresses, and stored numbers as fp32, in compiled code.

A mixed batch has any number of operands of any dtype, which Numba's arguments cannot be. So a loop
gets a table of addresses, and makes arrays of them again. Its caller keeps the memory alive.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import BYTES, FLOAT, WORD, bring

FP32, BF16, FP16 = range(3)
LINE = 64  # bytes that memory gives at once
HALF_WORD = ir.IntType(16)


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing: Any, address: Any) -> Any:
    """What `numba.carray` takes, of a whole number."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch_line(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bring(builder, builder.inttoptr(values[0], BYTES))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@compiled
def prefetch_bytes(address: int, first: int, past: int) -> None:
    """Have the bytes `[first, past)` after an address brought near, while something is computed."""
    for at in range(first, past, LINE):
        _prefetch_line(address + at)


@compiled
def widen_row(address: int, dtype: int, first: int, row: Any) -> None:
    """`row[:]` = the numbers stored at `address`, from number `first` on, as fp32."""
    past = first + len(row)
    if dtype == FP32:
        fp32 = carray(pointer(address), (past,), np.float32)[first:]
        for i in range(len(row)):
            row[i] = fp32[i]
    elif dtype == BF16:
        bf16 = carray(pointer(address), (past,), np.uint16)[first:]
        for i in range(len(row)):
            row[i] = _widened_bf16(bf16[i])
    else:
        fp16 = carray(pointer(address), (past,), np.uint16)[first:]
        for i in range(len(row)):
            row[i] = _widened_fp16(fp16[i])


@compiled
def widen_number(address: int, dtype: int, at: int) -> Any:
    """Number `at` of those stored at `address`, as fp32."""
    if dtype == FP32:
        return carray(pointer(address), (at + 1,), np.float32)[at]
    bits = carray(pointer(address), (at + 1,), np.uint16)[at]
    return _widened_bf16(bits) if dtype == BF16 else _widened_fp16(bits)


def load_stored(builder: Any, address: Any, code: int, at: Any, lanes: int) -> Any:
    """`lanes` numbers stored as `code` tells, from number `at` on, as fp32: a vector, or one."""
    element, widen = STORED[code]
    start = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    number = builder.load(builder.bitcast(start, _as_many(element, lanes).as_pointer()), align=2)
    return widen(builder, number, lanes)


def _as_many(element: Any, lanes: int) -> Any:
    return element if lanes == 1 else ir.VectorType(element, lanes)


def _same(builder: Any, number: Any, lanes: int) -> Any:
    return number


def _of_bf16(builder: Any, bits: Any, lanes: int) -> Any:
    """bf16 is the upper half of fp32."""
    kind = _as_many(WORD, lanes)
    places = ir.Constant(kind, 16 if lanes == 1 else [16] * lanes)
    return builder.bitcast(builder.shl(builder.zext(bits, kind), places), _as_many(FLOAT, lanes))


def _of_fp16(builder: Any, bits: Any, lanes: int) -> Any:
    half = builder.bitcast(bits, _as_many(ir.HalfType(), lanes))
    return builder.fpext(half, _as_many(FLOAT, lanes))


STORED = ((FLOAT, _same), (HALF_WORD, _of_bf16), (HALF_WORD, _of_fp16))


def by_stored(builder: Any, dtype: Any, emit: Callable[[int], None]) -> None:
    """Code that `emit(code)` writes for every dtype; the one that `dtype` tells is run."""
    done = builder.append_basic_block("done")
    blocks = [builder.append_basic_block(f"stored.{code}") for code in range(len(STORED))]
    chosen = builder.switch(dtype, blocks[0])
    for code, block in enumerate(blocks):
        if code:
            chosen.add_case(ir.Constant(dtype.type, code), block)
        builder.position_at_end(block)
        emit(code)
        builder.branch(done)
    builder.position_at_end(done)


def _number_widened(widen: Any) -> Any:
    def widened(typing: Any, bits: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return widen(builder, values[0], 1)

        return types.float32(types.uint16), generate

    return intrinsic(widened)


_widened_bf16, _widened_fp16 = _number_widened(_of_bf16), _number_widened(_of_fp16)

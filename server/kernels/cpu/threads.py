"""Runs the tasks of a compiled loop on the threads that torch's own products run on.

A second pool would fight with torch's for the cores: OpenMP's threads spin for a while after every
product, waiting for the next. So loops are handed to libgomp, the library whose pool torch uses.
Where torch was built on another one, the calling thread does all tasks itself.
"""

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import BaseTuple
from numba.extending import intrinsic

GOMP_PARALLEL = (
    "GOMP_parallel"  # void (*body)(void *), void *data, unsigned threads, unsigned flags
)
SYMBOL = "intarsia_gomp_parallel"


@cache
def can_share_threads() -> bool:
    """Whether torch's threads can be had. To be asked before any loop is compiled or called."""
    found = getattr(ctypes.CDLL(None), GOMP_PARALLEL, None)
    # Code that is kept on disk names the symbol, so it must be there even where it is not called.
    entry = found if found is not None else ctypes.pythonapi.Py_IsInitialized
    llvmlite.binding.add_symbol(SYMBOL, ctypes.cast(entry, ctypes.c_void_p).value)
    return found is not None


@intrinsic  # type: ignore[untyped-decorator]
def run_tasks(typing: Any, body: Any, count: Any, threads: Any, arguments: Any) -> Any:
    """`run_tasks(body, count, threads, arguments)` calls `body(i, *arguments)` for i < count.

    To be called in compiled code. Each task runs once, in no order, on whichever thread is free
    first. Tasks must neither raise nor write to the same places.
    """
    body_signature = body.get_call_type(typing, (types.int64, *arguments.types), {})
    signature = types.void(body, types.int64, types.int64, arguments)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        _, count, threads, packed = values
        packed = _borrowed(context, builder, arguments, packed)
        next_task = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(64), 0))
        shared = cgutils.alloca_once_value(
            builder, cgutils.pack_struct(builder, [next_task, count, packed])
        )
        worker = _worker(context, builder, body, body_signature, arguments, shared.type)
        data = builder.bitcast(shared, cgutils.voidptr_t)
        alone = builder.icmp_signed("<=", threads, ir.Constant(threads.type, 1))
        with builder.if_else(alone) as (then, otherwise):
            with then:
                builder.call(worker, [data])
            with otherwise:
                parallel = _gomp_parallel(builder.module, worker.type)
                team = builder.trunc(threads, ir.IntType(32))
                builder.call(parallel, [worker, data, team, ir.Constant(ir.IntType(32), 0)])
        return context.get_dummy_value()

    return signature, generate


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """`value` with its arrays owned by nobody, however deep they lie in tuples.

    The caller keeps them alive. Else every slice that a task takes is counted in and out in a
    place that all threads write to, which costs them far more than most slices' work.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
        return array._getvalue()
    if isinstance(kind, BaseTuple):
        for at, inner in enumerate(kind):
            own = _borrowed(context, builder, inner, builder.extract_value(value, at))
            value = builder.insert_value(value, own, at)
    return value


def _gomp_parallel(module: Any, worker: Any) -> Any:
    word = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [worker, cgutils.voidptr_t, word, word])
    return cgutils.get_or_insert_function(module, signature, SYMBOL)


def _worker(
    context: Any, builder: Any, body: Any, signature: Any, arguments: Any, shared: Any
) -> Any:
    """A function of what the threads share that takes tasks and does them until none is left."""
    compiled = body.dispatcher.get_compile_result(signature)
    context.add_linking_libs([compiled.library])
    task_function = context.declare_function(builder.module, compiled.fndesc)
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    worker = ir.Function(builder.module, kind, builder.module.get_unique_name("take_tasks"))
    worker.linkage = "internal"
    inner = ir.IRBuilder(worker.append_basic_block("entry"))
    data = inner.load(inner.bitcast(worker.args[0], shared))
    next_task, count, packed = cgutils.unpack_tuple(inner, data, 3)
    values = cgutils.unpack_tuple(inner, packed, len(arguments.types))
    take, work, done = (worker.append_basic_block(name) for name in ("take", "work", "done"))
    inner.branch(take)
    inner.position_at_end(take)
    index = inner.atomic_rmw("add", next_task, ir.Constant(ir.IntType(64), 1), "monotonic")
    inner.cbranch(inner.icmp_signed("<", index, count), work, done)
    inner.position_at_end(work)
    context.call_conv.call_function(
        inner, task_function, signature.return_type, signature.args, [index, *values]
    )
    inner.branch(take)
    inner.position_at_end(done)
    inner.ret_void()
    return worker

"""Turns the plain loops of this package into machine code on first use.

Owns Numba's settings: no fast-math, so that results are the same bits everywhere. No parallel
loops: threads are the caller's affair.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from numba.extending import register_jitable

from adapters_store.machine_code import compile_and_keep

Loop = TypeVar("Loop", bound=Callable[..., Any])


def inlined(helper: Loop) -> Loop:
    """A helper that loops may call, and Python too."""
    made: Loop = register_jitable(helper)
    return made


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """`loop` as machine code, made when it is first called with arguments of these types."""
    assert __package__ is not None
    return compile_and_keep(loop, __package__, fastmath=False)

"""Numba's settings for the loops of this package.

Products and sums may be contracted to one rounding. The order of a sum is set when it is compiled,
never by what else is in the step.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from adapters_store.machine_code import compile_and_keep

Loop = TypeVar("Loop", bound=Callable[..., Any])
AS_WRITTEN: frozenset[str] = frozenset()
CONTRACTED = frozenset({"contract"})
IN_LANES = frozenset({"contract", "reassoc", "nsz"})


def compiled(loop: Loop) -> Loop:
    """`loop` as machine code, run without the interpreter's lock; sums in the order written."""
    return _compile(loop, CONTRACTED)


def lane_sum(loop: Loop) -> Loop:
    """The same for a loop that is one sum: taken in vector lanes, which are added up at the end."""
    return _compile(loop, IN_LANES)


def as_written(loop: Loop) -> Loop:
    """The same, but every product and every sum is rounded by itself."""
    return _compile(loop, AS_WRITTEN)


def _compile(loop: Loop, fastmath: frozenset[str]) -> Loop:
    assert __package__ is not None
    return compile_and_keep(loop, __package__, fastmath=set(fastmath), error_model="numpy")

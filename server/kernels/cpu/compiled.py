"""Numba's settings for the loops of this package, and where their machine code is kept.

A loop is compiled when it is first called, and kept on disk where Numba finds a place it may write
(`NUMBA_CACHE_DIR`, beside the source, or the user's cache). Products and sums may be contracted to
one rounding. The order of a sum is set when it is compiled, never by what else is in the step.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

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
    settings = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    try:
        made: Loop = njit(cache=True, **settings)(loop)
    except RuntimeError as error:  # no place to keep code: slower to start, nothing else
        logging.getLogger(__name__).info("kernels: compiled code is not kept: %s", error)
        made = njit(**settings)(loop)
    return made

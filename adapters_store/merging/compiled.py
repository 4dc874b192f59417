"""Turns the plain loops of `loops.py` into machine code on first use.

Owns Numba's settings: no fast-math (results are the same bits everywhere), the interpreter lock
released, code kept on disk where Numba finds a place it may write (`NUMBA_CACHE_DIR`, beside the
source, or the user's cache). No parallel loops: threads are the caller's affair.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from numba import njit
from numba.extending import register_jitable

Loop = TypeVar("Loop", bound=Callable[..., Any])


def inlined(helper: Loop) -> Loop:
    """A helper that loops may call, and Python too."""
    made: Loop = register_jitable(helper)
    return made


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """`loop` as machine code, made when it is first called with arguments of these types."""
    try:
        return njit(nogil=True, fastmath=False, cache=True)(loop)  # type: ignore[no-any-return]
    except RuntimeError as error:  # no place to keep code: slower to start, nothing else
        logging.getLogger(__name__).info("merging: compiled code is not kept: %s", error)
        return njit(nogil=True, fastmath=False)(loop)  # type: ignore[no-any-return]

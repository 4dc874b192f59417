"""Freed memory back to the operating system, where the allocator would keep it for itself."""

import ctypes
from functools import cache


def release_free_memory() -> None:
    """Return what is free in every arena of the C library; nothing where it cannot.

    glibc raises its threshold for separate mappings when large blocks are freed, so that later
    ones come from arenas, which shrink only when told to.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None

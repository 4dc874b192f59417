"""Seconds and peak memory of one call, on Linux."""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """What a call answered, the seconds that it took, and the bytes that it added at its peak."""

    result: T
    seconds: float
    peak_bytes: int


def measure(call: Callable[[], T]) -> Measured[T]:
    """Call once. Memory that was there before does not count, the result does."""
    # Else memory that was freed but not given back would be used again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text(RESET_PEAK)
    before, start = _status_bytes("VmRSS"), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return Measured(result, seconds, max(0, _status_bytes("VmHWM") - before))


def _status_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10

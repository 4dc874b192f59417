"""Milliseconds of short calls, and what the machine can do at most, measured beside them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

REPEATS = 21
READ_NUMBERS = 1 << 26  # 256 MiB, more than any cache
SIDE = 1024  # of the square matrices whose product gives the arithmetic limit


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine read and computed while nothing else was asked of it."""

    bytes_per_ms: float
    flops_per_ms: float

    def least_ms(self, num_bytes: float, flops: float) -> float:
        return max(num_bytes / self.bytes_per_ms, flops / self.flops_per_ms)


def medians(calls: Mapping[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Milliseconds of each call; they take turns, so that what else runs slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: median(own[1:]) for name, own in times.items()}


def measure_limits() -> Limits:
    """Of reading memory, and of fp32 products in oneDNN."""
    numbers, square = torch.ones(READ_NUMBERS), torch.ones(SIDE, SIDE)
    found = medians({"read": numbers.sum, "multiply": lambda: square @ square}, repeats=5)
    return Limits(numbers.nbytes / found["read"], 2 * SIDE**3 / found["multiply"])

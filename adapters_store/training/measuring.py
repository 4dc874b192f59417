"""What a training run costs: seconds of each step, peak memory of each phase.

Knows processes and devices, nothing of training. The peak on a CPU is that of the process's
resident memory (with the base, the optimizer and the interpreter), on a GPU that of torch's
allocator.
"""

import ctypes
import gc
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """The steps of one phase. `peak_bytes` is None where the system does not tell it."""

    steps: int
    seconds_per_step: float  # median
    peak_bytes: int | None
    state_bytes: int  # of what is trained, its gradients and its optimizer's state


def phase_costs(history: Iterable[Mapping[str, Any]]) -> dict[str, PhaseCost]:
    """Costs by phase, from those entries of a log that are of steps: they name their phase."""
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for entry in history:
        if "phase" in entry:
            phases.setdefault(entry["phase"], []).append(entry)
    return {phase: _cost(entries) for phase, entries in phases.items()}


def _cost(entries: list[Mapping[str, Any]]) -> PhaseCost:
    peaks = [entry["peak_bytes"] for entry in entries if entry["peak_bytes"] is not None]
    seconds = statistics.median(entry["seconds"] for entry in entries)
    state = max(entry["state_bytes"] for entry in entries)
    return PhaseCost(len(entries), seconds, max(peaks, default=None), state)


class PeakMemory:
    """The most memory in use since `begin`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_known = device.type == "cuda" or CLEAR_REFS.exists()

    def begin(self) -> None:
        """Forget the peak so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self._is_known:
            self._is_known = _forget_peak()

    def bytes(self) -> int | None:
        """None where the system does not tell it."""
        if not self._is_known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        lines = STATUS.read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


def _forget_peak() -> bool:
    """Set the process's peak to what it has now; False where the system forbids it."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def give_back() -> None:
    """Return memory that is free to the system or the device, so that it counts no more."""
    gc.collect()
    torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's only
    if trim is not None:
        trim(0)

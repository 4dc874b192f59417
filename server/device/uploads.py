"""What is brought to a device beside its computing: pinned memory, and a stream of its own.

The host's memory is pinned once, in two halves that take turns, so that one is filled while the
other is read. Whoever computes with what was brought has the device wait for its arrival; nobody
waits on the host but the thread that fills the halves.
"""

import threading
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from server.device.interface import Device, Event, Stream

STAGED_BYTES = 8 << 20  # of a half


class Arrival:
    """When something is there. For the one thread that gives `stream` its work."""

    def __init__(self, event: Event) -> None:
        self._event: Event | None = event

    def awaited_by(self, stream: Stream) -> None:
        """What `stream` is given from now on is done after the arrival."""
        if self._event is not None:
            stream.wait_for(self._event)
            self._event = None


class Uploads:
    """Copies to `device`. May be used by several threads."""

    def __init__(self, device: Device, staged_bytes: int = STAGED_BYTES) -> None:
        self._place = device.place
        self._stream = device.stream()
        self._halves = [_Half(device, staged_bytes) for _ in range(2)]
        self._lock = threading.Lock()

    def use(self) -> AbstractContextManager[Any]:
        """Whatever this thread gives the device meanwhile comes before the next arrival."""
        return self._stream.use()

    def arrival(self) -> Arrival:
        """Of all that was given so far."""
        return Arrival(self._stream.mark())

    def place(self, array: Tensor) -> Tensor:
        """A contiguous copy on the device, in memory of its own, that may still be on its way."""
        source = array.detach().contiguous()
        with self._lock, self._stream.use():
            target = torch.empty(source.shape, dtype=source.dtype, device=self._place)
            self._copy(_as_bytes(target), _as_bytes(source))
        return target

    def _copy(self, target: Tensor, source: Tensor) -> None:
        size = len(self._halves[0].memory)
        for into, own in zip(target.split(size), source.split(size), strict=True):
            half = self._halves[0]
            half.fill(own)
            into.copy_(half.memory[: len(own)], non_blocking=True)
            half.read = self._stream.mark()
            self._halves.reverse()


class _Half:
    """Pinned memory, and the end of the copy that last read it."""

    def __init__(self, device: Device, num_bytes: int) -> None:
        self.memory = device.pinned(num_bytes, torch.uint8)
        self.read: Event | None = None

    def fill(self, numbers: Tensor) -> None:
        if self.read is not None:
            self.read.wait()
        self.memory[: len(numbers)].copy_(numbers)


def _as_bytes(array: Tensor) -> Tensor:
    return array.view(-1).view(torch.uint8)

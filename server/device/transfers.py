"""Numbers to a device and back: each time one copy, by way of pinned memory.

For one thread, in the stream that it uses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from server.device.interface import Device, Event, Stream

STAGED_BYTES = 8 << 20  # of each of the two halves that uploads go through


def send(device: Device, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on `device` of int64 tensors of the host, soon; nobody waits for them."""
    sizes = [tensor.numel() for tensor in tensors]
    packed = device.pinned(sum(sizes), torch.int64)
    torch.cat([tensor.reshape(-1) for tensor in tensors], out=packed)
    sent = packed.to(device.place, non_blocking=True).split(sizes)
    return [own.view(tensor.shape) for own, tensor in zip(sent, tensors, strict=True)]


class Landing:
    """Where fp32 numbers of a device come to, on the host; the next ones come to the same place."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device, self._stream = device, stream
        self._host = device.pinned(0, torch.float32)

    def fetch(self, numbers: Tensor) -> Tensor:
        """`numbers [n]` once all is done that was given before. The only wait of a step."""
        count = len(numbers)
        if count > len(self._host):
            self._host = self._device.pinned(count, torch.float32)
        landed = self._host[:count]
        landed.copy_(numbers, non_blocking=True)
        self._stream.mark().wait()
        return landed


class _Half:
    """Pinned memory, and the end of the copy that last went through it."""

    def __init__(self, device: Device, num_bytes: int) -> None:
        self.memory = device.pinned(num_bytes, torch.uint8)
        self.read: Event | None = None


class Uploads:
    """Copies to a device in a stream of their own, beside what it computes. For one thread."""

    def __init__(self, device: Device, staged_bytes: int = STAGED_BYTES) -> None:
        self._place = device.place
        self._stream = device.stream()
        self._halves = [_Half(device, staged_bytes) for _ in range(2)]

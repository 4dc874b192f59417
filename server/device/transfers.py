"""Numbers to a device and back: each time one copy, by way of pinned memory.

For one thread, in the stream that it uses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from server.device.interface import Device, Stream

ALIGNMENT = 16  # numbers of 8 bytes: a line of a cache


def send(device: Device, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on `device` of int64 tensors of the host, soon; nobody waits for them."""
    sizes = [aligned(tensor.numel()) for tensor in tensors]
    packed = device.pinned(sum(sizes), torch.int64)
    for into, tensor in zip(packed.split(sizes), tensors, strict=True):
        into[: tensor.numel()] = tensor.reshape(-1)
    sent = packed.to(device.place, non_blocking=True, copy=True).split(sizes)
    return [own[: t.numel()].view(t.shape) for own, t in zip(sent, tensors, strict=True)]


def aligned(count: int) -> int:
    """Numbers of 8 bytes, so many or a few more, behind which another array may begin."""
    return -(-count // ALIGNMENT) * ALIGNMENT


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

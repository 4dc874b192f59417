"""What the server asks of a device beside tensors: memory, order, waiting, repetition.

A device has memory of its own and does what it is given later than it is given it. What is given
in one stream is done in order; streams know of each other only by events.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Memory(NamedTuple):
    """Bytes of a device's memory."""

    total: int
    free: int  # for this program; the rest is the driver's and other programs'


class Event(Protocol):
    """A point in a stream."""

    def wait(self) -> None:
        """Return once everything before it is done."""


class Stream(Protocol):
    """What is given here is done in order."""

    def use(self) -> AbstractContextManager[Any]:
        """Whatever this thread gives the device meanwhile is given here."""

    def mark(self) -> Event:
        """The point behind all that was given so far."""

    def wait_for(self, event: Event) -> None:
        """What is given from now on is done after `event`. Nobody waits for that here."""


class Recording(Protocol):
    """Work that was given once, and can be given again without its Python."""

    def replay(self) -> None:
        """The same operations on the same addresses."""


class Device(Protocol):
    """Something that computes."""

    @property
    def name(self) -> str:
        """As its maker calls it."""

    @property
    def is_gpu(self) -> bool:
        """Whether its memory is its own, and what it is given is done later."""

    @property
    def place(self) -> torch.device:
        """Where torch has its tensors."""

    def memory(self) -> Memory:
        """What there is now."""

    def stream(self) -> Stream:
        """A new one."""

    def usual(self) -> Stream:
        """The one that takes what is given while no other is used."""

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Host memory `[count]` that copies come from and go to while nobody waits for them."""

    def record(self, work: Callable[[], None]) -> Recording:
        """Do `work`, and have it ready to be repeated; to be called while a stream is used.

        It must be such that doing it twice changes nothing, wait for nothing, and keep what it
        reads and leaves where it is.
        """

    def synchronize(self) -> None:
        """Return once all that was given in any stream is done."""

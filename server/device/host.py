"""The CPU as a device: everything is done when it is given, and nobody ever waits."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from server.device.interface import Event, Memory, Recording, Stream


class HostDevice:
    """This machine's processors and memory. A recording is the work itself, done once more."""

    name = "CPU"
    is_gpu = False
    place = torch.device("cpu")

    def memory(self) -> Memory:
        page = os.sysconf("SC_PAGE_SIZE")
        pages, free = (os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        return Memory(total=pages * page, free=free * page)

    def stream(self) -> Stream:
        return _AtOnce()

    def usual(self) -> Stream:
        return _AtOnce()

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype)

    def record(self, work: Callable[[], None]) -> Recording:
        work()
        return _Again(work)

    def synchronize(self) -> None:
        pass


class _Done:
    def wait(self) -> None:
        pass


class _AtOnce:
    def use(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def mark(self) -> Event:
        return _Done()

    def wait_for(self, event: Event) -> None:
        pass


class _Again:
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def replay(self) -> None:
        self._work()

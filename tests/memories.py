"""Adapter memory for tests: sources that count, and a pool whose jobs run when the test says."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import torch
from store_factories import random_adapter

from server.adapters.claims import AdapterLease
from server.adapters.delta import resident_bytes
from server.adapters.device import DeviceAdapters
from server.adapters.host import HostAdapters
from server.adapters.memory import AdapterMemory
from server.adapters.sources import Loaded
from server.engine.block_manager import BlockManager
from server.engine.page_room import PageRoom
from server.kernels.reference import ReferenceKernels

KERNELS = ReferenceKernels(torch.device("cpu"))
NAMES = [f"{letter}{number}" for letter in "abcdefgh" for number in range(25)]
ADAPTERS = {name: random_adapter(seed=seed % 7) for seed, name in enumerate(NAMES)}
ADAPTERS["large"] = random_adapter(kind="dense")
SIZE, LARGE = (resident_bytes(ADAPTERS[name], KERNELS) for name in ("a0", "large"))
HOST_SIZE = ADAPTERS["a0"].num_bytes
PLENTY = 1 << 30


class ManualPool(Executor):
    """Runs nothing by itself: `run` takes the jobs in order, `run_at` one of them."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        while self.jobs:
            self.run_at(0)

    def run_at(self, index: int) -> None:
        self.jobs.rotate(-index)
        future, job = self.jobs.popleft()
        self.jobs.rotate(index)
        try:
            result = job()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)


@dataclass
class Named:
    """A source by name, that counts its loads and may fail."""

    digest: str
    desk: "Desk"

    def start(self) -> Future[Loaded]:
        self.desk.loads.append(self.digest)
        return self.desk.pool.submit(self._load)

    def _load(self) -> Loaded:
        if self.desk.failure is not None:
            raise self.desk.failure
        return ADAPTERS[self.digest]


@dataclass
class Desk:
    """An adapter memory, and everything that a test wants to turn or to see."""

    device_bytes: int = PLENTY
    host_bytes: int = PLENTY
    max_waiting: int = 1024
    blocks: BlockManager | None = None
    page_bytes: int = 0
    pool: ManualPool = field(default_factory=ManualPool)
    loads: list[str] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    failure: Exception | None = None

    def __post_init__(self) -> None:
        blocks = self.blocks or BlockManager(0, 1)
        self.memory = AdapterMemory(
            HostAdapters(self.host_bytes),
            DeviceAdapters(self.device_bytes),
            KERNELS,
            self.pool,
            blocks.lock,
            self.max_waiting,
        )
        if self.blocks is not None:
            PageRoom(blocks, self.page_bytes, self.forgotten.extend).connect(self.memory)

    def ask(
        self, *names: str, hold: bool = False, is_background: bool = False
    ) -> "Future[AdapterLease]":
        """Ask for a lease; nothing is loaded before the pool runs."""
        sources = [Named(name, self) for name in names]
        return self.memory.lease(sources, hold=hold, is_background=is_background)

    def lease(self, *names: str, hold: bool = False) -> AdapterLease:
        """Have a lease at once."""
        asked = self.ask(*names, hold=hold)
        self.pool.run()
        return asked.result(0)

    def touch(self, names: Iterable[str]) -> None:
        """Lease and let go, one after the other."""
        for name in names:
            self.lease(name).release()

    def resident(self) -> set[str]:
        return {name for name in ADAPTERS if self.memory.device.find(name) is not None}

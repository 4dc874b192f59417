"""Room for adapters in the memory of KV pages: what they take, the cache does without.

Pages are withdrawn and restored as adapters come and go. When the cache runs short it gets back
what idle adapters hold; when sequences let go of pages, adapters that wait for room hear of it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from server.adapters.device import DeviceAdapters
from server.engine.block_manager import BlockManager


class Tenant(Protocol):
    """The adapters."""

    device: DeviceAdapters

    def give_way(self, num_bytes: int) -> None:
        """Free `num_bytes` if idle adapters hold as much."""

    def admit(self) -> None:
        """There may be room."""


class PageRoom:
    """A `DeviceRoom` out of the free pages of `blocks`, each of `page_bytes`.

    `forget` gives the memory of pages back to the system; without it they are only not used.
    """

    def __init__(
        self, blocks: BlockManager, page_bytes: int, forget: Callable[[Sequence[int]], None]
    ) -> None:
        self._blocks = blocks
        self._page_bytes = page_bytes
        self._forget = forget
        self._total = 0  # bytes that adapters hold
        self._pages: list[int] = []
        self._unforgotten: list[int] = []
        self._forgetting: set[int] = set()  # nobody may write there meanwhile
        self._tenant: Tenant | None = None

    def connect(self, tenant: Tenant) -> None:
        """From now on `tenant` lives here: it is asked for pages, and told of free ones."""
        self._tenant = tenant
        tenant.device.room = self
        self._blocks.neighbour = self

    # For adapters

    def fits(self, total: int) -> bool:
        return self._missing(total) <= self._blocks.num_free

    def hold(self, total: int) -> None:
        self._total = total
        self._settle()

    def vacate(self) -> None:
        with self._blocks.lock:
            pages, self._unforgotten = set(self._unforgotten) & set(self._pages), []
            self._forgetting |= pages
        try:
            self._forget(sorted(pages))
        finally:
            with self._blocks.lock:
                self._forgetting -= pages
                self._settle()

    # For the block manager

    def give_way(self, num_pages: int) -> None:
        if self._tenant is not None:
            self._tenant.give_way(num_pages * self._page_bytes)

    def pages_freed(self) -> None:
        if self._tenant is not None:
            self._tenant.admit()

    def _settle(self) -> None:
        """Hold the pages of `_total`, and of more only what is being forgotten just now."""
        missing = self._missing(self._total)
        if missing > 0:
            pages = self._blocks.withdraw(missing)
            assert pages is not None, "held without asking whether it fits"
            self._pages += pages
            self._unforgotten += pages
        elif missing < 0:
            spare = [page for page in self._pages if page not in self._forgetting][missing:]
            self._blocks.restore(spare)
            given_back = set(spare)
            self._pages = [page for page in self._pages if page not in given_back]

    def _missing(self, total: int) -> int:
        return -(-total // self._page_bytes) - len(self._pages)

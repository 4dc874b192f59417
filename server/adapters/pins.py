"""Names that the operator pinned: their adapters stay on the device, whatever else comes.

Of a pinned name stay the latest version and every version that an alias points at, since these are
what requests can name without a number. Other servers over the same registry hear of a pin when
they start.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from adapters_store.errors import StoreError
from server.adapters.claims import AdapterLease, given
from server.adapters.errors import AdapterMemoryError, AdapterMemoryFull
from server.adapters.memory import AdapterMemory
from server.adapters.sources import Source

logger = logging.getLogger(__name__)


class PinnedNames:
    """Leases without an end, by name. `keep`, or `refresh`, after every change of a name."""

    def __init__(
        self,
        memory: AdapterMemory,
        source: Callable[[str], Source],
        wanted: Callable[[str], Iterable[str]],
    ) -> None:
        """`wanted` tells the digests that a name is to keep on the device, none if not pinned."""
        self._memory = memory
        self._source = source
        self._wanted = wanted
        self._leases: dict[str, tuple[frozenset[str], AdapterLease]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """From now on the running event loop is where names are kept."""
        self._loop = asyncio.get_running_loop()

    def keep_soon(self, name: str) -> None:
        """`keep` from any thread; answers at once."""
        assert self._loop is not None, "names change before the start"
        asyncio.run_coroutine_threadsafe(self.keep(name), self._loop)

    async def keep(self, name: str) -> None:
        """Have on the device what `name` now stands for, if it is pinned.

        What does not fit, or cannot be loaded, is said and served unpinned.
        """
        try:
            await self.refresh(name)
        except (AdapterMemoryError, StoreError) as error:
            logger.warning("%s is pinned, but stays off the device: %s", name, error)

    async def refresh(self, name: str) -> None:
        """Pin what `name` now stands for, and let go of what it stood for.

        Holds up no other name. Raises AdapterMemoryError, or what loading raises; nothing of the
        name is pinned then.
        """
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            wanted = frozenset(await asyncio.to_thread(self._wanted, name))
            held, lease = self._leases.get(name, (frozenset(), None))
            if wanted == held:
                return
            try:
                await self._pin(name, wanted, lease)
            finally:
                if lease is not None:
                    lease.release()

    async def _pin(self, name: str, wanted: frozenset[str], former: AdapterLease | None) -> None:
        """Beside the `former` lease if that can be, so that what both hold stays; else after it."""
        self._leases.pop(name, None)
        if not wanted:
            return
        try:
            lease = await self._lease(wanted)
        except AdapterMemoryFull:
            if former is None:
                raise
            former.release()
            lease = await self._lease(wanted)
        self._leases[name] = (wanted, lease)

    async def _lease(self, digests: Iterable[str]) -> AdapterLease:
        sources = [self._source(digest) for digest in sorted(digests)]
        return await given(self._memory.lease(sources, hold=True))

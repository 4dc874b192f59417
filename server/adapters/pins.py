"""Names that the operator pinned: their adapters stay on the device, whatever else comes.

Of a pinned name stay the latest version and every version that an alias points at, since these are
what requests can name without a number. Other servers over the same registry hear of a pin when
they start.
"""

import threading
from collections.abc import Callable, Iterable

from server.adapters.claims import AdapterLease
from server.adapters.memory import AdapterMemory
from server.adapters.sources import Source


class PinnedNames:
    """Leases without an end, by name. `refresh` after every change of a name."""

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
        self._lock = threading.Lock()

    def refresh(self, name: str) -> None:
        """Pin what `name` now stands for, and let go of what it stood for. Blocks while loading.

        Raises AdapterMemoryFull, or what loading raises; nothing has changed then.
        """
        with self._lock:
            wanted = frozenset(self._wanted(name))
            held, lease = self._leases.get(name, (frozenset(), None))
            if wanted == held:
                return
            if wanted:
                sources = [self._source(digest) for digest in sorted(wanted)]
                self._leases[name] = (wanted, self._memory.lease(sources, hold=True).result())
            else:
                del self._leases[name]
        if lease is not None:
            lease.release()

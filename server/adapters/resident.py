"""Which adapters are on the device: loaded once, pinned while requests use them, evicted by bytes.

Called from API threads (`lease`, `discard`) and from the engine's thread (`get`, `release`).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from adapters_store.adapter import SparseAdapter
from server.adapters.delta import ResidentAdapter, make_resident
from server.adapters.errors import AdapterMemoryFull
from server.kernels.interface import Kernels


@dataclass(slots=True)
class _Entry:
    """One adapter that is loading or loaded. `pins` counts the leases that hold it."""

    digest: str
    loaded: Future[ResidentAdapter] = field(default_factory=Future)
    pins: int = 0
    num_bytes: int = 0  # counted from the moment that room was made
    is_discarded: bool = False  # goes when the last pin goes


class AdapterLease:
    """Keeps adapters resident until `release`, which may be called more than once."""

    def __init__(self, unpin: Callable[[_Entry], None], entries: Sequence[_Entry]) -> None:
        self._unpin = unpin
        self._entries = list(entries)
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            entries, self._entries = self._entries, []
        for entry in entries:
            self._unpin(entry)


class ResidentAdapters:
    """A byte-bounded, least-recently-used set of device adapters; loading is single-flight."""

    def __init__(
        self, load: Callable[[str], SparseAdapter], kernels: Kernels, max_bytes: int
    ) -> None:
        self._load = load
        self._kernels = kernels
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently leased first
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes held on the device."""
        with self._lock:
            return self._num_bytes()

    @property
    def num_pins(self) -> int:
        """Leases not yet released, summed over adapters."""
        with self._lock:
            return sum(entry.pins for entry in self._entries.values())

    def lease(self, digests: Sequence[str]) -> AdapterLease:
        """Make `digests` resident and keep them so. Blocks while loading.

        Raises AdapterMemoryFull, or whatever loading an adapter raises; nothing stays pinned then.
        """
        entries: list[_Entry] = []
        try:
            for digest in digests:
                entries.append(self._pin(digest))
                entries[-1].loaded.result()
        except BaseException:
            AdapterLease(self._unpin, entries).release()
            raise
        return AdapterLease(self._unpin, entries)

    def get(self, digest: str) -> ResidentAdapter:
        """A leased adapter."""
        with self._lock:
            loaded = self._entries[digest].loaded
        assert loaded.done(), f"{digest} is used without a lease"
        return loaded.result()

    def discard(self, digest: str) -> int:
        """Drop an adapter as soon as no lease holds it; answers the bytes freed now."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return 0
            entry.is_discarded = True
            return self._drop_if_idle(entry)

    def _pin(self, digest: str) -> _Entry:
        with self._lock:
            entry = self._entries.get(digest)
            is_first = entry is None
            if entry is None:
                entry = self._entries[digest] = _Entry(digest)
            entry.pins += 1
            entry.is_discarded = False
            self._entries.move_to_end(digest)
        if is_first:
            self._fill(entry)
        return entry

    def _fill(self, entry: _Entry) -> None:
        """Load; a failure reaches everyone who waits, and the next lease tries anew."""
        try:
            adapter = make_resident(self._load(entry.digest), self._kernels)
            with self._lock:
                self._make_room(adapter.num_bytes)
                entry.num_bytes = adapter.num_bytes
        except Exception as error:
            with self._lock:
                del self._entries[entry.digest]
            entry.loaded.set_exception(error)
        else:
            entry.loaded.set_result(adapter)

    def _make_room(self, needed: int) -> None:
        """Evict what is idle, least recently leased first; nothing if it would not do."""
        pinned = sum(entry.num_bytes for entry in self._entries.values() if entry.pins > 0)
        if pinned + needed > self._max_bytes:
            raise AdapterMemoryFull(needed, pinned, self._max_bytes)
        idle = (entry for entry in list(self._entries.values()) if entry.pins == 0)
        while self._num_bytes() + needed > self._max_bytes:
            del self._entries[next(idle).digest]

    def _unpin(self, entry: _Entry) -> None:
        with self._lock:
            entry.pins -= 1
            assert entry.pins >= 0, f"{entry.digest} is released more often than leased"
            self._drop_if_idle(entry)

    def _drop_if_idle(self, entry: _Entry) -> int:
        failed_to_load = self._entries.get(entry.digest) is not entry  # and is gone already
        if entry.pins > 0 or not entry.is_discarded or failed_to_load:
            return 0
        del self._entries[entry.digest]
        return entry.num_bytes

    def _num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self._entries.values())

"""Adapters in host memory: verified copies of files, merged ones, prototypes; ready to be laid out.

A byte-bounded, least-recently-used set with single-flight loading. What is larger than the budget
passes through without being kept. Called from any thread.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

from server.adapters.journals import is_journal
from server.adapters.sources import Loaded, Source


@dataclass(slots=True)
class TierCounts:
    """What happened to adapters in a tier since the start; only ever grows. Journals are none."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0


class HostAdapters:
    """Adapters by digest, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.counts = TierCounts()
        self._kept: OrderedDict[str, Loaded] = OrderedDict()  # least recently used first
        self._loading: dict[str, Future[Loaded]] = {}
        self._num_bytes = 0
        self._lock = threading.RLock()  # a load that is over at once is kept in the same breath

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def bytes_of(self, digest: str) -> int:
        """Bytes held of one adapter."""
        with self._lock:
            kept = self._kept.get(digest)
            return kept.num_bytes if kept is not None else 0

    def is_loading(self, digest: str) -> bool:
        return digest in self._loading

    def fetch(self, source: Source) -> Future[Loaded]:
        """The adapter, now or when it is loaded; whoever comes meanwhile shares the load."""
        with self._lock:
            if (kept := self._kept.get(source.digest)) is not None:
                self._kept.move_to_end(source.digest)
                self.counts.hits += not is_journal(source.digest)
                return _done(kept)
            if (loading := self._loading.get(source.digest)) is not None:
                return loading
            self.counts.loads += not is_journal(source.digest)
            loading = self._loading[source.digest] = source.start()
        loading.add_done_callback(lambda loaded: self._loaded(source.digest, loaded))
        return loading

    def discard(self, digest: str) -> int:
        """Forget an adapter, also one that is still loading; answers the bytes let go."""
        with self._lock:
            self._loading.pop(digest, None)
            return self._drop(digest)

    def _loaded(self, digest: str, loaded: Future[Loaded]) -> None:
        with self._lock:
            is_wanted = self._loading.get(digest) is loaded
            if not is_wanted:
                return
            del self._loading[digest]
            if loaded.exception() is None:
                self._keep(digest, loaded.result())

    def _keep(self, digest: str, adapter: Loaded) -> None:
        if adapter.num_bytes > self.max_bytes:
            return
        while self._num_bytes + adapter.num_bytes > self.max_bytes:
            oldest = next(iter(self._kept))
            self._drop(oldest)
            self.counts.evictions += not is_journal(oldest)
        self._kept[digest] = adapter
        self._num_bytes += adapter.num_bytes

    def _drop(self, digest: str) -> int:
        dropped = self._kept.pop(digest, None)
        num_bytes = dropped.num_bytes if dropped is not None else 0
        self._num_bytes -= num_bytes
        return num_bytes


def _done(adapter: Loaded) -> Future[Loaded]:
    future: Future[Loaded] = Future()
    future.set_result(adapter)
    return future

"""The way out: adapters that go as soon as nobody uses them or waits for them.

Called under the lock of the device's memory.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from server.adapters.device import DeviceAdapters, DeviceEntry
from server.adapters.host import HostAdapters
from server.adapters.status import Freed
from server.adapters.trim import release_free_memory


class Drains:
    """Drains by digest. `num_waiting` tells who waits for an adapter, `ask_back` hears of one that
    is kept by nobody but the weights it is fused with; `pool` gives memory back."""

    def __init__(
        self,
        host: HostAdapters,
        device: DeviceAdapters,
        pool: Executor,
        num_waiting: Callable[[str], int],
        ask_back: Callable[[str], None],
    ) -> None:
        self._host, self._device = host, device
        self._pool = pool
        self._num_waiting = num_waiting
        self._ask_back = ask_back
        self._drains: dict[str, Future[Freed]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._drains

    def begin(self, digest: str) -> Future[Freed]:
        """Let an adapter go; the bytes freed by tier, once it is gone."""
        draining = self._drains.setdefault(digest, Future())
        self.finish([digest])
        return draining

    def keep(self, digest: str) -> None:
        """The same content was published anew: whatever drains of it stays."""
        if (draining := self._drains.pop(digest, None)) is not None:
            draining.set_result(Freed(0, 0))

    def finish(self, digests: Sequence[str]) -> None:
        """Those of `digests` may have lost a user: let go what drains and has none left."""
        for digest in self._drains.keys() & set(digests):
            entry = self._device.find(digest)
            # Pins went before the drain began: one that is there is of the same content, come back.
            is_kept = entry is not None and entry.holds > 0
            is_used = entry is not None and entry.pins > entry.holds
            if entry is not None and entry.is_only_in_weights:
                self._ask_back(digest)
            if is_used or (self._num_waiting(digest) > 0 and not is_kept):
                continue
            freed = Freed(0, 0) if is_kept else self._drop(digest, entry)
            draining = self._drains.pop(digest)
            if freed == Freed(0, 0):
                draining.set_result(freed)
            else:
                self._pool.submit(_hand_back, draining, freed)

    def _drop(self, digest: str, entry: DeviceEntry | None) -> Freed:
        if entry is not None:
            self._device.drop(entry)
        return Freed(self._host.discard(digest), entry.num_bytes if entry is not None else 0)


def _hand_back(draining: Future[Freed], freed: Freed) -> None:
    """Tell that a drain is over, with the memory back at the operating system."""
    release_free_memory()
    draining.set_result(freed)

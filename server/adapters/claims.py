"""Leases on device adapters: the one that is given, and the one that is still waited for."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from server.adapters.sources import Loaded, Source


class AdapterLease:
    """Keeps adapters resident until `release`, which may be called more than once."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    def after(self, act: Callable[[], None]) -> "AdapterLease":
        """This lease, once `act` has been done; what that raises ends the lease."""
        try:
            act()
        except BaseException:
            self.release()
            raise
        return self

    def release(self) -> None:
        with self._lock:
            release, self._release = self._release, None  # which would keep the adapters alive
        if release is not None:
            release()


class Fetched(NamedTuple):
    """An adapter in the host's memory, and the bytes that it will have on the device."""

    adapter: Loaded
    device_bytes: int


@dataclass(slots=True, eq=False)
class Claim:
    """A lease that is asked for and not yet given."""

    number: int  # in order of arrival
    sources: Sequence[Source]
    hold: bool
    is_background: bool = False  # behind all that are not
    lease: Future[AdapterLease] = field(default_factory=Future)
    fetched: dict[str, Fetched] = field(default_factory=dict)  # what was not resident
    passes: int = 0  # claims that came later and were served before

    @property
    def rank(self) -> tuple[bool, int]:
        """Whoever has the smaller one is served first."""
        return self.is_background, self.number

    @property
    def digests(self) -> set[str]:
        return {source.digest for source in self.sources}


def give(claimed: Future[AdapterLease], lease: AdapterLease, error: BaseException | None) -> None:
    """The lease to whoever waits for it, or the `error` that spoilt it."""
    if error is None:
        claimed.set_result(lease)
    else:
        lease.release()
        claimed.set_exception(error)


async def given(claimed: Future[AdapterLease]) -> AdapterLease:
    """The lease, once it is given. Cancelling gives the claim up, or the lease back."""
    try:
        return await asyncio.wrap_future(claimed)
    except asyncio.CancelledError:
        claimed.add_done_callback(_give_back)
        raise


def _give_back(claimed: Future[AdapterLease]) -> None:
    if not claimed.cancelled() and claimed.exception() is None:
        claimed.result().release()

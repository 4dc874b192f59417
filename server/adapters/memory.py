"""Adapters from disk to host to device, for whoever asks: leases, their queue, and the way out.

A lease keeps all adapters of one request on the device. It is asked for by digest; what is missing
is loaded to the host at once, whether or not the device has room, and laid out on the device when
its turn comes, which `waiting.py` says. Nobody waits in a thread of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from adapters_store.each import Each, in_turn
from server.adapters.claims import AdapterLease, Claim, Fetched, give
from server.adapters.delta import MakeResident, ResidentAdapter, make_resident, resident_bytes
from server.adapters.device import DeviceAdapters, DeviceEntry
from server.adapters.draining import Drains
from server.adapters.errors import AdapterMemoryError
from server.adapters.futures import when_all
from server.adapters.host import HostAdapters
from server.adapters.sources import Loaded, Source
from server.adapters.status import Freed, MemoryStatus, State
from server.adapters.waiting import WaitingClaims
from server.kernels.interface import Kernels


class AdapterMemory:
    """Both tiers of memory. Every public method may be called from any thread."""

    def __init__(
        self,
        host: HostAdapters,
        device: DeviceAdapters,
        kernels: Kernels,
        pool: Executor,
        lock: AbstractContextManager[Any],
        max_waiting: int,
        make: MakeResident = make_resident,
        each: Each = in_turn,
    ) -> None:
        """`lock`, re-entrant, is the room's; `each` tells the bytes of an adapter's deltas."""
        self.host, self.device = host, device
        self._bytes_of = partial(resident_bytes, kernels=kernels, each=each)
        self._kernels, self._make, self._pool, self._lock = kernels, make, pool, lock
        self._waiting = WaitingClaims(max_waiting)
        self.ask_back: Callable[[str], None] = lambda digest: None  # where nothing ever fuses
        self._drains = Drains(host, device, pool, self._waiting.num_of, lambda d: self.ask_back(d))

    def lease(
        self, sources: Sequence[Source], *, hold: bool = False, is_background: bool = False
    ) -> Future[AdapterLease]:
        """All of `sources` on the device, as soon as may be; cancelling the future gives up.

        `hold` says that the lease has no end, so that nobody need wait for it; a background one is
        given room when nobody else waits for any. The future fails with AdapterMemoryFull, or with
        what loading an adapter raises; nothing stays pinned then. Raises LeaseQueueFull.
        """
        with self._lock:
            claim = self._waiting.add(sources, hold=hold, is_background=is_background)
        claim.lease.add_done_callback(lambda lease: self._give_up(claim, lease))
        self._fetch(claim)
        return claim.lease

    def lease_to_weights(self, journals: Mapping[str, int]) -> AdapterLease:
        """A lease at once, of adapters that are leased already, for as long as they are fused.

        With room for each one's journal of so many bytes, or it raises NoRoomToFuse. `ask_back`
        hears, from any thread and under the lock, of one that is wanted gone, or whose room is,
        while nobody else holds it: then the lease is to be released soon.
        """
        with self._lock:
            entries = self.device.pin_in_weights(journals, may_grow=not self._waiting.is_in_line)
        lease = AdapterLease(lambda: self._release(entries, self.device.unpin_in_weights))
        return lease.after(self.device.room.vacate)

    def get(self, digest: str) -> ResidentAdapter:
        """A leased adapter."""
        entry = self.device.find(digest)
        assert entry is not None, f"{digest} is used without a lease"
        assert entry.loaded.done(), f"{digest} is used before its lease is given"
        return entry.loaded.result()

    def give_way(self, num_bytes: int) -> None:
        """Let idle adapters go for whoever shares the room; fused ones soon, if that would do."""
        with self._lock:
            for digest in self.device.give_way(num_bytes):
                self.ask_back(digest)

    def admit(self) -> None:
        """There may be room now: serve the claims that wait for it."""
        with self._lock:
            self._waiting.serve(self._serve, lambda claim: self.device.has(claim.digests))

    # What there is

    def status(self, digest: str) -> MemoryStatus:
        """Where one adapter is, on this server."""
        with self._lock:
            entry = self.device.find(digest)
            return MemoryStatus(
                state=self._state(digest, entry),
                pins=entry.pins if entry is not None else 0,
                waiting=self._waiting.num_of(digest),
                host_bytes=self.host.bytes_of(digest),
                device_bytes=entry.num_bytes if entry is not None else 0,
            )

    @property
    def num_waiting(self) -> int:
        """Leases asked for and not yet given."""
        return len(self._waiting)

    @property
    def is_crowded(self) -> bool:
        """Whether somebody waits for room who is not in the background."""
        with self._lock:
            return self._waiting.is_crowded

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books of both tiers add up."""
        with self._lock:
            self.device.check_integrity()
            assert self.host.num_bytes <= self.host.max_bytes
            self._waiting.check_integrity()

    # The way out

    def drain(self, digest: str) -> Future[Freed]:
        """Let an adapter go as soon as nobody uses it or waits for it; the bytes freed by tier."""
        with self._lock:
            return self._drains.begin(digest)

    def keep(self, digest: str) -> None:
        """The same content was published anew: whatever drains of it stays."""
        with self._lock:
            self._drains.keep(digest)

    # From claim to lease

    def _fetch(self, claim: Claim) -> None:
        """Load what is in neither tier; then the claim waits for room."""
        missing = [source for source in claim.sources if not self._is_at_hand(claim, source)]
        fetching = [self.host.fetch(source) for source in missing]
        when_all(fetching, lambda error: self._fetched(claim, missing, fetching, error))

    def _fetched(
        self,
        claim: Claim,
        sources: Sequence[Source],
        fetching: Sequence[Future[Loaded]],
        error: BaseException | None,
    ) -> None:
        if error is not None:
            self._fail(claim, error)
            return
        fetched = [Fetched(own.result(), self._bytes_of(own.result())) for own in fetching]
        with self._lock:
            if claim in self._waiting:
                claim.fetched.update(zip((s.digest for s in sources), fetched, strict=True))
                self._waiting.line_up(claim)
                self.admit()
            self._waiting.drop_fetched()

    def _serve(self, claim: Claim) -> bool:
        """Settle a claim, one way or the other; False if it has to wait for room."""
        if not all(self._is_at_hand(claim, source) for source in claim.sources):
            self._waiting.step_out(claim)
            self._fetch(claim)  # something was evicted while it waited
            return True
        try:
            entries = self._take_room(claim)
        except AdapterMemoryError as error:
            self._fail(claim, error)
            return True
        if entries is not None:
            self._hand_over(claim, entries)
        return entries is not None

    def _take_room(self, claim: Claim) -> list[DeviceEntry] | None:
        """Pinned entries for all members, new ones among them; None, and no change, if full."""
        sizes = {digest: fetched.device_bytes for digest, fetched in claim.fetched.items()}
        taken = self.device.take(sorted(claim.digests), sizes, hold=claim.hold)
        if taken is None:
            for digest in self.device.keeping_out(claim.digests, sizes):
                self.ask_back(digest)
            return None
        for entry in taken.added:
            self._pool.submit(self._lay_out, entry, claim.fetched[entry.digest].adapter)
        return [*taken.found, *taken.added]

    def _hand_over(self, claim: Claim, entries: list[DeviceEntry]) -> None:
        """Give the lease when all of its adapters are laid out."""
        self._forget(claim)
        unpin = partial(self.device.unpin, hold=claim.hold)
        lease = AdapterLease(lambda: self._release(entries, unpin))
        if claim.lease.set_running_or_notify_cancel():
            loading = [entry.loaded for entry in entries]
            when_all(loading, lambda error: give(claim.lease, lease, error))
        else:
            lease.release()

    def _lay_out(self, entry: DeviceEntry, adapter: Loaded) -> None:
        try:
            self.device.room.vacate()
            resident = self._make(entry.digest, adapter, self._kernels)
            assert resident.num_bytes == entry.num_bytes, "an operand's bytes were foretold wrongly"
        except BaseException as error:
            with self._lock:
                self.device.drop(entry)
            entry.loaded.set_exception(error)
        else:
            entry.loaded.set_result(resident)

    def _release(
        self, entries: Sequence[DeviceEntry], unpin: Callable[[Sequence[DeviceEntry]], None]
    ) -> None:
        with self._lock:
            unpin(entries)
            self._drains.finish([entry.digest for entry in entries])
            self.admit()

    def _fail(self, claim: Claim, error: BaseException) -> None:
        with self._lock:
            self._forget(claim)
        if claim.lease.set_running_or_notify_cancel():
            claim.lease.set_exception(error)

    def _give_up(self, claim: Claim, lease: Future[AdapterLease]) -> None:
        """A claim whose client is gone makes room for those behind it."""
        if lease.cancelled():
            with self._lock:
                self._forget(claim)
                self.admit()

    def _forget(self, claim: Claim) -> None:
        self._waiting.forget(claim)
        self._drains.finish(sorted(claim.digests))

    def _is_at_hand(self, claim: Claim, source: Source) -> bool:
        return source.digest in claim.fetched or self.device.has([source.digest])

    def _state(self, digest: str, entry: DeviceEntry | None) -> State:
        if digest in self._drains:
            return State.DRAINING
        if entry is not None and entry.loaded.done():
            return State.READY
        if entry is not None or self.host.is_loading(digest) or self._waiting.num_of(digest):
            return State.LOADING
        return State.STORED

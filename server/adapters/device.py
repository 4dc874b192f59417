"""Which adapters are on the device: bytes, pins, and who goes when room is needed.

Bookkeeping only; `memory.py` holds the lock under which all of this is called, and loads.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from server.adapters.delta import ResidentAdapter
from server.adapters.errors import AdapterMemoryFull, NoRoomToFuse
from server.adapters.host import TierCounts
from server.adapters.journals import is_journal, journal_id, num_adapters
from server.adapters.room import DeviceRoom, OwnRoom


@dataclass(slots=True, eq=False)
class DeviceEntry:
    """One adapter that is laid out, or about to be: its room is taken from the start."""

    digest: str
    num_bytes: int
    loaded: Future[ResidentAdapter] = field(default_factory=Future)
    pins: int = 0  # leases that hold it
    holds: int = 0  # of these, leases without an end: the operator's pins
    in_weights: int = 0  # of these, leases of the weights that the adapter is fused with

    @property
    def is_only_in_weights(self) -> bool:
        """Whether nobody holds it but the weights, which give it back when they are asked."""
        return 0 < self.pins == self.in_weights


class Taken(NamedTuple):
    """What a lease has pinned: entries that were there, and new ones to be laid out."""

    found: list[DeviceEntry]
    added: list[DeviceEntry]


class DeviceAdapters:
    """At most `max_bytes` of adapters, inside what `room` has."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.counts = TierCounts()
        self.room: DeviceRoom = OwnRoom()
        self._entries: OrderedDict[str, DeviceEntry] = OrderedDict()  # least recently pinned first

    @property
    def num_pins(self) -> int:
        """Leases that end with a request, summed over adapters; may be asked without the lock."""
        adapters = [e for e in list(self._entries.values()) if not is_journal(e.digest)]
        return sum(entry.pins - entry.holds - entry.in_weights for entry in adapters)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, digest: str) -> DeviceEntry | None:
        return self._entries.get(digest)

    def has(self, digests: Iterable[str]) -> bool:
        """Whether all of them are there, or about to be."""
        return all(digest in self._entries for digest in digests)

    def entries_of(self, digest: str) -> Mapping[str, int] | None:
        """Numbers that an adapter changes, by layer, if it is laid out; needs no lock."""
        entry = self._entries.get(digest)
        if entry is None or not entry.loaded.done() or entry.loaded.exception() is not None:
            return None
        return entry.loaded.result().entries

    def pin(self, entries: Sequence[DeviceEntry], *, hold: bool = False) -> None:
        """Keep entries where they are, once more each."""
        for entry in entries:
            entry.pins += 1
            entry.holds += hold
            self._entries.move_to_end(entry.digest)

    def unpin(self, entries: Sequence[DeviceEntry], *, hold: bool = False) -> None:
        """Take a pin back."""
        for entry in entries:
            entry.pins -= 1
            entry.holds -= hold
            assert entry.pins >= entry.holds >= 0, f"{entry.digest} has no pin to be taken back"
        self._drop_idle_journals(entries)

    def pin_in_weights(self, journals: Mapping[str, int], *, may_grow: bool) -> list[DeviceEntry]:
        """The entries of what is pinned already, kept for as long as it is fused.

        `journals` has the bytes of each one's journal, entries beside it; those that nobody leased
        are added, if memory `may_grow`. Raises NoRoomToFuse, and changes nothing.
        """
        assert self.has(journals), "fused without a lease"
        adapters = [self._entries[digest] for digest in journals]
        assert all(entry.pins > 0 for entry in adapters), "fused without a lease"
        self._add_journals(journals, may_grow)
        entries = adapters + [self._entries[journal_id(digest)] for digest in journals]
        for entry in entries:
            entry.pins += 1
            entry.in_weights += 1
        return entries

    def unpin_in_weights(self, entries: Sequence[DeviceEntry]) -> None:
        """They are fused no longer."""
        for entry in entries:
            entry.in_weights -= 1
            entry.pins -= 1
            assert entry.pins >= entry.holds + entry.in_weights, f"{entry.digest} has lost a pin"
        self._drop_idle_journals(entries)

    def only_in_weights(self) -> list[str]:
        """What would be idle if it were not fused."""
        return [entry.digest for entry in self._entries.values() if entry.is_only_in_weights]

    def keeping_out(self, digests: Collection[str], sizes: Mapping[str, int]) -> list[str]:
        """What has to leave the weights so that `take` succeeds, if it can be had so."""
        missing = sum(size for digest, size in sizes.items() if digest not in self._entries)
        idle = sum(entry.num_bytes for entry in self._idle() if entry.digest not in digests)
        fused = [digest for digest in self.only_in_weights() if digest not in digests]
        fused_bytes = sum(self._entries[digest].num_bytes for digest in fused)
        return fused if self._fits(self.num_bytes + missing - idle - fused_bytes) else []

    def take(self, digests: Sequence[str], sizes: Mapping[str, int], *, hold: bool) -> Taken | None:
        """Entries of all `digests`, pinned; None, and no change, where there is no room for them.

        `sizes` has those that may be missing. Raises AdapterMemoryFull if they never fit.
        """
        found = [entry for digest in digests if (entry := self.find(digest)) is not None]
        missing = {digest: size for digest, size in sizes.items() if self.find(digest) is None}
        needed = sum(missing.values()) + sum(entry.num_bytes for entry in found)
        self.check_possible(digests, needed)
        self.pin(found, hold=hold)
        added = self.add(missing)
        if added is None:
            self.unpin(found, hold=hold)
            return None
        self.pin(added, hold=hold)
        self.counts.hits += num_adapters(entry.digest for entry in found)
        return Taken(found, added)

    def add(self, sizes: Mapping[str, int]) -> list[DeviceEntry] | None:
        """New entries with their room taken, idle ones evicted for it; None where there is none.

        Spares what has a pin, so pin what is wanted beside them first.
        """
        victims = self._victims(sum(sizes.values()))
        if victims is None:
            return None
        self._evict(victims)
        entries = [DeviceEntry(digest, num_bytes) for digest, num_bytes in sizes.items()]
        self._entries.update((entry.digest, entry) for entry in entries)
        self.counts.loads += num_adapters(sizes)
        self._resize(sum(sizes.values()))
        return entries

    def drop(self, entry: DeviceEntry) -> None:
        """Forget an entry and give its room back, if it is still there."""
        if self._entries.get(entry.digest) is entry:
            del self._entries[entry.digest]
            self._resize(-entry.num_bytes)

    def give_way(self, num_bytes: int) -> list[str]:
        """Let idle adapters go until they freed `num_bytes`, or none where they hold less.

        Then answers what would have to leave the weights for that, if it can be had so.
        """
        idle = self._idle()
        before = accumulate((entry.num_bytes for entry in idle), initial=0)
        victims = [entry for entry, freed in zip(idle, before, strict=False) if freed < num_bytes]
        missing = num_bytes - sum(entry.num_bytes for entry in victims)
        if missing <= 0:
            self._evict(victims)
            return []
        fused = self.only_in_weights()
        fused_bytes = sum(self._entries[digest].num_bytes for digest in fused)
        return fused if fused_bytes >= missing else []

    def check_possible(self, digests: Collection[str], needed: int) -> None:
        """Raise AdapterMemoryFull if `digests`, `needed` bytes of them, never fit.

        They do once every lease but the operator's and their own has ended.
        """
        others = (entry for entry in self._entries.values() if entry.digest not in digests)
        held = sum(entry.num_bytes for entry in others if entry.holds > 0)
        if held + needed > self.max_bytes:
            raise AdapterMemoryFull(needed, held, self.max_bytes)

    def check_integrity(self) -> None:
        """Raise AssertionError unless bytes and pins add up."""
        total = sum(entry.num_bytes for entry in self._entries.values())
        assert total == self.num_bytes <= self.max_bytes, f"{total}, {self.num_bytes} bytes"
        for entry in self._entries.values():
            assert entry.pins >= entry.holds + entry.in_weights >= entry.holds >= 0, entry

    def _victims(self, needed: int) -> list[DeviceEntry] | None:
        """The fewest idle adapters, oldest first, whose going makes room; None if none would."""
        total = self.num_bytes + needed
        victims: list[DeviceEntry] = []
        for entry in self._idle():
            if self._fits(total):
                return victims
            victims.append(entry)
            total -= entry.num_bytes
        return victims if self._fits(total) else None

    def _fits(self, total: int) -> bool:
        return total <= self.max_bytes and self.room.fits(total)

    def _evict(self, victims: Sequence[DeviceEntry]) -> None:
        for entry in victims:
            self.drop(entry)
        self.counts.evictions += num_adapters(entry.digest for entry in victims)

    def _resize(self, difference: int) -> None:
        self.num_bytes += difference
        self.room.hold(self.num_bytes)

    def _add_journals(self, journals: Mapping[str, int], may_grow: bool) -> None:
        names = {journal_id(digest): size for digest, size in journals.items()}
        missing = {name: size for name, size in names.items() if name not in self._entries}
        needed = sum(missing.values())
        may_grow = may_grow and self._leaves_as_much(needed)
        added = self.add(missing) if may_grow or not missing else None
        if added is None:
            raise NoRoomToFuse(needed)
        for entry in added:
            entry.loaded.set_result(ResidentAdapter(entry.digest, {}, entry.num_bytes))

    def _leaves_as_much(self, needed: int) -> bool:
        """Whether others find as much again, idle adapters gone: who takes the last of the room
        that is shared with sequences is soon asked back by them."""
        idle = sum(entry.num_bytes for entry in self._idle())
        return self.room.fits(self.num_bytes - idle + 2 * needed)

    def _drop_idle_journals(self, entries: Sequence[DeviceEntry]) -> None:
        """Nothing is kept in them for the next one who wants them."""
        for entry in entries:
            if entry.pins == 0 and is_journal(entry.digest):
                self.drop(entry)

    def _idle(self) -> list[DeviceEntry]:
        """What no lease holds, least recently pinned first."""
        return [entry for entry in self._entries.values() if entry.pins == 0]

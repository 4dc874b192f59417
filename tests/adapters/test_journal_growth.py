"""Journals that nobody leased: when they may grow, whom they keep out, and what is counted."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from memories import ADAPTERS, KERNELS, SIZE, Desk, Named

from server.adapters.composition import BASE, Composition
from server.adapters.errors import NoRoomToFuse
from server.adapters.fused import FusedWeights
from server.adapters.host import TierCounts
from server.adapters.journals import changed_entries, journal_id
from server.adapters.sources import JournalOf
from server.engine.block_manager import BlockManager
from server.engine.fuser import CHEAPER, NO_ROOM, Fuser
from server.engine.renting import SkiRental
from server.engine.scheduled import ScheduledBatch
from server.engine.sequence import Mode


def lease_with_journal(desk: Desk, name: str, size: int) -> None:
    adapter, memory = Named(name, desk), desk.memory

    def size_of(entries: Mapping[str, int]) -> int:
        assert entries == changed_entries(ADAPTERS[name])
        return size

    journal = JournalOf(adapter, memory.host.fetch, size_of, memory.device.entries_of)
    lease = memory.lease([adapter, journal])
    desk.pool.run()
    lease.result(0).release()


def test_a_resident_adapter_is_not_loaded_again_to_size_its_journal() -> None:
    desk = Desk(host_bytes=0)
    desk.touch(["a0"])
    lease_with_journal(desk, "a0", SIZE)
    assert desk.loads == ["a0"]
    assert desk.memory.device.entries_of("b0") is None


def test_journals_are_no_events_of_adapters() -> None:
    desk = Desk()
    held = desk.lease("a0")
    lease_with_journal(desk, "a0", SIZE)
    desk.memory.lease_to_weights({"a0": 1}).release()
    held.release()
    assert desk.memory.host.counts == TierCounts(loads=1)
    assert desk.memory.device.counts == TierCounts(hits=1, loads=1)


@pytest.mark.parametrize("num_free", [3, 5, 6])
def test_a_journal_grows_only_where_as_much_again_stays_free(num_free: int) -> None:
    blocks = BlockManager(num_pages=20, page_size=4)
    desk = Desk(blocks=blocks, page_bytes=SIZE)
    desk.lease("a0")
    desk.touch(["b0", "c0"])  # idle ones count as free
    assert blocks.allocate(blocks.num_free + 2 - num_free)
    if num_free < 6:
        with pytest.raises(NoRoomToFuse):
            desk.memory.lease_to_weights({"a0": 3 * SIZE})
    else:
        assert desk.memory.lease_to_weights({"a0": 3 * SIZE})
    desk.memory.check_integrity()


def test_nothing_grows_while_a_background_claim_waits() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    desk.lease("a0")
    waiting = desk.ask("b0", "c0", is_background=True)
    desk.pool.run()
    with pytest.raises(NoRoomToFuse):
        desk.memory.lease_to_weights({"a0": 1})
    waiting.cancel()
    assert desk.memory.lease_to_weights({"a0": 1})


def test_journals_are_asked_back_only_by_who_fits_then() -> None:
    asked: list[str] = []
    desk = Desk(device_bytes=3 * SIZE)
    desk.memory.ask_back = asked.append
    desk.lease("a0")
    used = desk.lease("b0")
    desk.memory.lease_to_weights({"a0": SIZE})
    desk.ask("c0", "d0", is_background=True)
    desk.pool.run()
    assert asked == []
    used.release()
    assert asked == [journal_id("a0")]


class Chooses(SkiRental):
    """Wants the composition `wanted` wherever it is allowed."""

    wanted = BASE

    def choose(self, now: Composition, cost: Any, price: Any, allowed: Any) -> Composition:
        return self.wanted if self.wanted in {BASE, *allowed} else now


def auto_batch(*compositions: Composition) -> ScheduledBatch:
    """One token of each, of requests in auto mode."""
    request = SimpleNamespace(mode=Mode.AUTO)

    def entry(composition: Composition) -> Any:
        runs = [(1, composition)]
        sequence = SimpleNamespace(request=request, composition_runs=lambda start, end: runs)
        return SimpleNamespace(sequence=sequence, start=0, end=1)

    return ScheduledBatch(tuple(map(entry, compositions)), None)


def test_what_finds_no_room_leaves_in_place_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    renting = Chooses()
    monkeypatch.setattr("server.engine.fuser.SkiRental", lambda: renting)
    weights = {each.layer: torch.zeros(each.shape) for each in ADAPTERS["a0"].deltas}
    fused = FusedWeights(weights, KERNELS)
    journal = fused.journal_bytes(changed_entries(ADAPTERS["a0"]))
    desk = Desk(device_bytes=2 * SIZE + journal)
    desk.lease("a0", "a1")
    fuser = Fuser(fused, desk.memory.get, desk.memory.lease_to_weights)
    first, second = (Composition.linear([(name, 1.0)]) for name in ("a0", "a1"))
    batch = auto_batch(first, second)
    for wanted in (first, second, second):
        renting.wanted = wanted
        assert fuser.prepare(batch).composition == first
    assert fuser.switches == {CHEAPER: 1, NO_ROOM: 1}, "not tried again beside the first"
    fuser.undo()
    assert fuser.prepare(batch).composition == second
    with pytest.raises(NoRoomToFuse):
        fuser.prepare(ScheduledBatch((), first))
    assert fuser.now == BASE, "what must be fused and cannot be leaves the base"
    desk.memory.check_integrity()

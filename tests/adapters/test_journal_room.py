"""Journals are part of the device's bytes: leased to fuse, given up when idle, never half there."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memories import ADAPTERS, SIZE, Desk, Named
from torch import Tensor

from server.adapters.claims import AdapterLease
from server.adapters.composition import BASE, Composition
from server.adapters.errors import AdapterMemoryFull, NoRoomToFuse
from server.adapters.fused import FusedWeights
from server.adapters.journals import changed_entries, is_journal, journal_id
from server.adapters.sources import JournalOf
from server.engine.block_manager import BlockManager
from server.engine.fuser import NO_ROOM, Fuser
from server.engine.scheduled import ScheduledBatch
from server.kernels.reference import ReferenceKernels

LAYERS = {delta.layer: delta.shape for delta in ADAPTERS["a0"].deltas}
ENTRIES = changed_entries(ADAPTERS["a0"])
ENTRY_BYTES = 8 + 4  # a place and an fp32 number
JOURNAL_SIZE = ENTRY_BYTES * sum(ENTRIES.values())


def size_of(entries: Mapping[str, int]) -> int:
    return ENTRY_BYTES * sum(entries.values())


def ask(desk: Desk, *names: str) -> "Future[AdapterLease]":
    """A lease of adapters that are to be fused."""
    plain = [Named(name, desk) for name in names]
    memory = desk.memory
    rooms = [JournalOf(p, memory.host.fetch, size_of, memory.device.entries_of) for p in plain]
    return desk.memory.lease([*plain, *rooms])


def lease(desk: Desk, *names: str) -> AdapterLease:
    asked = ask(desk, *names)
    desk.pool.run()
    return asked.result(0)


def journal_bytes(desk: Desk) -> int:
    """What is accounted for journals."""
    entries = [desk.memory.device.find(journal_id(name)) for name in ADAPTERS]
    return sum(entry.num_bytes for entry in entries if entry is not None)


def test_who_is_to_be_fused_leases_room_for_the_journal_and_brings_it_back() -> None:
    desk = Desk()
    held = lease(desk, "a0")
    assert (journal_bytes(desk), desk.memory.device.num_bytes) == (
        JOURNAL_SIZE,
        SIZE + size_of(ENTRIES),
    )
    other = lease(desk, "a0")
    held.release()
    assert journal_bytes(desk) == JOURNAL_SIZE
    other.release()
    assert desk.memory.device.num_bytes == SIZE, "an idle adapter stays, an idle journal does not"
    assert desk.memory.host.num_bytes == ADAPTERS["a0"].num_bytes
    desk.memory.check_integrity()


def test_what_never_fits_with_its_journal_is_refused_at_once() -> None:
    desk = Desk(device_bytes=SIZE + JOURNAL_SIZE - 1)
    asked = ask(desk, "a0")
    desk.pool.run()
    with pytest.raises(AdapterMemoryFull):
        asked.result(0)
    assert desk.lease("a0"), "batched it fits"
    assert journal_bytes(desk) == 0


def test_what_loading_raises_ends_the_lease() -> None:
    desk = Desk(failure=OSError("no disk"))
    asked = ask(desk, "a0")
    desk.pool.run()
    with pytest.raises(OSError, match="no disk"):
        asked.result(0)
    assert desk.memory.device.num_pins == 0


def test_weights_find_the_room_that_requests_leased() -> None:
    desk = Desk(device_bytes=SIZE + JOURNAL_SIZE)
    request = lease(desk, "a0")
    weights = desk.memory.lease_to_weights({"a0": JOURNAL_SIZE})
    request.release()
    assert journal_bytes(desk) == JOURNAL_SIZE
    weights.release()
    assert journal_bytes(desk) == 0


def test_weights_take_room_of_idle_adapters_but_of_no_one_else() -> None:
    desk = Desk(device_bytes=2 * SIZE + JOURNAL_SIZE - 1)
    desk.lease("a0")
    used = desk.lease("b0")
    with pytest.raises(NoRoomToFuse) as caught:
        desk.memory.lease_to_weights({"a0": JOURNAL_SIZE})
    assert caught.value.needed == JOURNAL_SIZE
    assert (desk.resident(), journal_bytes(desk)) == ({"a0", "b0"}, 0)
    used.release()
    desk.memory.lease_to_weights({"a0": JOURNAL_SIZE})
    assert desk.resident() == {"a0"}
    desk.memory.check_integrity()


def test_weights_take_no_room_that_somebody_waits_for() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    desk.lease("a0")
    waiting = desk.ask("b0", "c0")
    desk.pool.run()
    assert not waiting.done()
    with pytest.raises(NoRoomToFuse):
        desk.memory.lease_to_weights({"a0": 1})
    waiting.cancel()
    assert desk.memory.lease_to_weights({"a0": 1})


def test_a_journal_nobody_leased_gives_way_while_its_adapter_is_used() -> None:
    asked: list[str] = []
    desk = Desk(device_bytes=SIZE + max(SIZE, JOURNAL_SIZE))
    desk.memory.ask_back = asked.append
    desk.lease("a0")
    weights = desk.memory.lease_to_weights({"a0": JOURNAL_SIZE})
    waiting = desk.ask("b0")
    desk.pool.run()
    assert (asked, waiting.done()) == ([journal_id("a0")], False)
    weights.release()
    desk.pool.run()
    assert waiting.result(0)


def test_a_journal_nobody_leased_gives_way_to_sequences() -> None:
    asked: list[str] = []
    blocks = BlockManager(num_pages=20, page_size=4)
    desk = Desk(blocks=blocks, page_bytes=SIZE // 3)
    desk.memory.ask_back = asked.append
    desk.lease("a0")
    weights = desk.memory.lease_to_weights({"a0": JOURNAL_SIZE})
    assert blocks.num_withdrawn == -(-(SIZE + JOURNAL_SIZE) // (SIZE // 3))
    assert len(desk.forgotten) == blocks.num_withdrawn, "their memory is given back first"
    wanted = blocks.num_free + 1
    assert (blocks.allocate(wanted), asked) == (None, [journal_id("a0")])
    weights.release()
    assert blocks.allocate(wanted)


def test_pages_that_cannot_be_given_back_are_not_fused_into() -> None:
    blocks = BlockManager(num_pages=20, page_size=4)
    desk = Desk(blocks=blocks, page_bytes=SIZE // 3)
    desk.lease("a0")

    def fail() -> None:
        raise OSError("not now")

    before = blocks.num_withdrawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.memory.device.room, "vacate", fail)
        with pytest.raises(OSError, match="not now"):
            desk.memory.lease_to_weights({"a0": JOURNAL_SIZE})
    assert (journal_bytes(desk), blocks.num_withdrawn) == (0, before)
    desk.memory.check_integrity()


def test_bytes_of_weights_of_16_bits_count_what_undoes_rounding() -> None:
    kernels = ReferenceKernels("cpu")
    weights = {name: torch.randn(shape).bfloat16() for name, shape in LAYERS.items()}
    fused = FusedWeights(weights, kernels)
    desk = Desk()
    desk.lease("a0")
    fused.switch(Composition.linear([("a0", 1.0)]), [(desk.memory.get("a0"), 1.0)])
    *_, (rounding, _) = fused.now.corrections
    held = sum(operand.num_bytes for own in rounding.operands.values() for operand in own)
    assert fused.journal_bytes(ENTRIES) == fused.num_bytes + held
    assert fused.journal_bytes({"tied to another": 5}) == 0


class FailingKernels(ReferenceKernels):
    """Fails at some calls of `read` and `write`; a write has then written some of it."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.fails_in, self.faults = 0, 0  # so many calls from now, so many of them

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        self._call()
        return super().read(weight, places)

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        half = len(places) // 2
        super().write(weight, places[:half], values[:half])
        self._call()
        super().write(weight, places[half:], values[half:])

    def _call(self) -> None:
        self.fails_in -= 1
        if self.fails_in < 0 < self.faults:
            self.faults -= 1
            raise MemoryError("in the middle")


FUSABLE = ("a0", "a1", "a2", "a3")


class Journals(RuleBasedStateMachine):
    """Fused, undone, asked back, with faults anywhere, while others want the room."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(device_bytes=5 * SIZE + 2 * JOURNAL_SIZE)
        self.kernels = FailingKernels()
        self.base = {name: torch.randn(shape) for name, shape in LAYERS.items()}
        self.weights = {name: weight.clone() for name, weight in self.base.items()}
        self.fused = FusedWeights(self.weights, self.kernels)
        memory = self.desk.memory
        self.fuser = Fuser(self.fused, memory.get, memory.lease_to_weights)
        self.asked_back: list[str] = []
        memory.ask_back = self.asked_back.append
        self.adapters = self.desk.lease(*FUSABLE)
        self.others: list[Future[AdapterLease]] = []

    @rule(names=st.lists(st.sampled_from(FUSABLE), max_size=2, unique=True))
    def fuse(self, names: Sequence[str]) -> None:
        wanted = Composition.linear([(name, 1.0) for name in names])
        try:
            self.fuser.prepare(ScheduledBatch((), wanted))
        except (MemoryError, NoRoomToFuse):
            assert self.fuser.now == BASE
        else:
            assert self.fuser.now == wanted

    @rule()
    def undo(self) -> None:
        try:
            self.fuser.undo()
        except MemoryError:
            assert self.fuser.now == BASE

    @rule(calls=st.integers(0, 4), faults=st.integers(1, 4))
    def something_will_fail(self, calls: int, faults: int) -> None:
        self.kernels.fails_in, self.kernels.faults = calls, faults

    @precondition(lambda self: self.asked_back)
    @rule()
    def give_back(self) -> None:
        for name in self.asked_back:
            self.fuser.let_go(name)
        self.asked_back.clear()

    @rule(name=st.sampled_from(["b0", "b1", "c0"]), is_fused=st.booleans())
    def another_comes(self, name: str, is_fused: bool) -> None:
        self.others.append(ask(self.desk, name) if is_fused else self.desk.ask(name))
        self.desk.pool.run()

    @precondition(lambda self: self.others)
    @rule(data=st.data())
    def another_goes(self, data: st.DataObject) -> None:
        gone = self.others.pop(data.draw(st.integers(0, len(self.others) - 1)))
        if not gone.cancel():
            gone.add_done_callback(lambda given: given.result(0).release())
        self.desk.pool.run()

    @invariant()
    def what_is_held_is_accounted_for(self) -> None:
        self.desk.memory.check_integrity()
        device = self.desk.memory.device
        entries = [device.find(journal_id(name)) for name in FUSABLE]
        accounted = sum(entry.num_bytes for entry in entries if entry is not None)
        assert self.fused.num_bytes <= accounted
        if self.fuser.now != BASE:
            assert accounted == JOURNAL_SIZE * len(self.fuser.now.members)
        elif self.fused.num_bytes == 0:
            assert accounted == 0

    def teardown(self) -> None:
        """Without faults everything is the base's again, and everybody is served."""
        self.kernels.faults = 0
        self.fuser.undo()
        assert all(torch.equal(self.weights[name], own) for name, own in self.base.items())
        for asked in self.others:
            asked.add_done_callback(lambda given: given.result(0).release())
        self.desk.pool.run()
        self.adapters.release()
        assert all(asked.done() for asked in self.others)
        assert journal_bytes(self.desk) == self.desk.memory.device.num_pins == 0
        assert not any(is_journal(name) and self.desk.memory.device.find(name) for name in ADAPTERS)


TestJournals = Journals.TestCase
TestJournals.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_no_room_is_counted_and_leaves_the_base() -> None:
    machine = Journals()
    for name in ("b0", "b1"):
        machine.another_comes(name, is_fused=True)
    assert [asked.done() for asked in machine.others] == [True, False]
    machine.fuse(["a0"])
    assert (machine.fuser.switches, machine.fuser.now) == ({NO_ROOM: 1}, BASE)
    machine.others.pop().cancel()
    machine.fuse(["a0"])
    assert machine.fuser.now != BASE
    machine.teardown()

"""KV pages and adapters out of one budget: neither takes what the other uses."""

from collections.abc import Sequence
from concurrent.futures import Future

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memories import NAMES, SIZE, Desk

from server.adapters.claims import AdapterLease
from server.engine.block_manager import BlockManager
from server.engine.page_room import PageRoom

PAGE = SIZE // 3  # so that an adapter takes four pages, the last in part


def shared(num_pages: int, device_bytes: int = 1 << 30) -> tuple[Desk, BlockManager]:
    blocks = BlockManager(num_pages, page_size=4)
    return Desk(device_bytes=device_bytes, blocks=blocks, page_bytes=PAGE), blocks


def test_adapters_take_free_pages_and_bring_them_back() -> None:
    desk, blocks = shared(num_pages=10)
    lease = desk.lease("a0", "b0")
    assert blocks.num_withdrawn == -(-2 * SIZE // PAGE)
    assert len(desk.forgotten) == blocks.num_withdrawn, "their memory is given back first"
    lease.release()
    desk.memory.drain("a0")
    desk.memory.drain("b0")
    assert (blocks.num_withdrawn, blocks.num_free) == (0, 10)


def test_adapter_waits_for_pages_that_sequences_hold() -> None:
    desk, blocks = shared(num_pages=10)
    pages = blocks.allocate(8)
    asked = desk.ask("a0")
    desk.pool.run()
    assert not asked.done()
    assert pages is not None
    blocks.release(pages[:2])
    desk.pool.run()
    assert asked.result(0)
    blocks.check_integrity([pages[2:]])


def test_idle_adapters_give_way_to_sequences_and_used_ones_do_not() -> None:
    desk, blocks = shared(num_pages=10)
    desk.touch(["a0"])
    used = desk.lease("b0")
    assert blocks.num_free < 4
    assert blocks.allocate(6) is not None
    assert desk.resident() == {"b0"}
    assert blocks.allocate(2) is None
    used.release()
    assert blocks.allocate(2) is not None
    assert desk.resident() == set()


def test_no_adapter_goes_where_its_going_would_not_be_enough() -> None:
    desk, blocks = shared(num_pages=10)
    held = blocks.allocate(3)
    desk.touch(["a0"])
    assert blocks.allocate(8) is None
    assert desk.resident() == {"a0"}
    assert held is not None


def test_no_page_is_forgotten_that_came_back_meanwhile() -> None:
    desk, blocks = shared(num_pages=10)
    asked = desk.ask("a0")
    desk.pool.run_at(0)  # room is taken; laying out has not begun
    desk.memory.device.drop(desk.memory.device.find("a0"))  # type: ignore[arg-type]
    pages = blocks.allocate(10)
    desk.pool.run()
    assert desk.forgotten == []
    assert pages is not None
    assert asked.done()


def test_no_page_is_forgotten_that_a_sequence_takes_during_the_forgetting() -> None:
    desk, blocks = shared(num_pages=10)
    taken: list[int] = []

    def forget(pages: Sequence[int]) -> None:
        """Just before, a sequence takes what an idle adapter holds."""
        desk.forgotten.extend(pages)
        taken.extend(blocks.allocate(blocks.num_free + len(pages)) or ())

    PageRoom(blocks, PAGE, forget).connect(desk.memory)
    desk.touch(["a0"])
    desk.forgotten.clear()
    lease = desk.lease("b0")
    assert taken
    assert desk.resident() == {"b0"}
    assert not set(taken) & set(desk.forgotten), "keys and values of a sequence are lost"
    lease.release()
    desk.memory.drain("b0")
    blocks.release(taken)
    assert (blocks.num_withdrawn, blocks.num_free) == (0, 10)


def test_cached_pages_are_lent_last() -> None:
    desk, blocks = shared(num_pages=6)
    pages = blocks.allocate(2)
    assert pages is not None
    for page in pages:
        blocks.publish(page, b"key %d" % page)
    blocks.release(pages)
    desk.lease("a0").release()
    assert blocks.find([b"key %d" % pages[0]]) == [pages[0]], "unkeyed pages go first"
    blocks.check_integrity([])


class SharedMemory(RuleBasedStateMachine):
    """Sequences and requests come and go in any order, with loads that end when they will."""

    def __init__(self) -> None:
        super().__init__()
        self.desk, self.blocks = shared(num_pages=24, device_bytes=4 * SIZE)
        self.tables: list[list[int]] = []
        self.asked: list[Future[AdapterLease]] = []

    @rule(names=st.lists(st.sampled_from(NAMES[:8]), min_size=1, max_size=3, unique=True))
    def request_adapters(self, names: list[str]) -> None:
        self.asked.append(self.desk.ask(*names))

    @precondition(lambda self: self.desk.pool.jobs)
    @rule(data=st.data())
    def job_runs(self, data: st.DataObject) -> None:
        self.desk.pool.run_at(data.draw(st.integers(0, len(self.desk.pool.jobs) - 1)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def request_ends(self, data: st.DataObject) -> None:
        lease = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        if not lease.cancel():
            lease.add_done_callback(lambda given: given.result(0).release())

    @rule(count=st.integers(1, 12))
    def sequence_grows(self, count: int) -> None:
        if (pages := self.blocks.allocate(count)) is not None:
            self.tables.append(pages)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def sequence_ends(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.blocks.release(self.tables.pop(index))

    @rule(name=st.sampled_from(NAMES[:8]))
    def adapter_is_deleted(self, name: str) -> None:
        self.desk.memory.drain(name)

    @invariant()
    def books_are_right(self) -> None:
        self.blocks.check_integrity(self.tables)
        self.desk.memory.check_integrity()
        held = self.desk.memory.device.num_bytes
        assert self.blocks.num_withdrawn == -(-held // PAGE)

    def teardown(self) -> None:
        """Once sequences end and requests let go, everyone was served and nothing is held."""
        for table in self.tables:
            self.blocks.release(table)
        for lease in self.asked:
            lease.add_done_callback(lambda given: given.result(0).release())
        self.desk.pool.run()
        assert all(lease.done() for lease in self.asked)
        assert self.desk.memory.device.num_pins == self.desk.memory.num_waiting == 0


TestSharedMemory = SharedMemory.TestCase
TestSharedMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("held_pages", [0, 5])
def test_two_hundred_adapters_through_room_for_eight_leave_nothing(held_pages: int) -> None:
    desk, blocks = shared(num_pages=40, device_bytes=8 * SIZE)
    blocks.allocate(held_pages)
    for index in range(5_000):
        desk.lease(NAMES[index * 37 % 200]).release()
        assert desk.memory.device.num_bytes <= 8 * SIZE
    assert len(desk.resident()) == 8
    for name in desk.resident():
        desk.memory.drain(name)
    assert (desk.memory.device.num_bytes, blocks.num_withdrawn) == (0, 0)

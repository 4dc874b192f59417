"""Adapters in the weights stay on the device, and leave when somebody wants them gone."""

import pytest
from memories import SIZE, Desk

from server.adapters.claims import AdapterLease
from server.adapters.journals import is_journal
from server.adapters.status import Freed, State
from server.engine.block_manager import BlockManager


class Weights:
    """Holds adapters fused; told to give one back, it does so when the test says."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.asked: list[str] = []  # but for journals, which have no bytes here
        self.lease: AdapterLease | None = None
        desk.memory.ask_back = lambda name: None if is_journal(name) else self.asked.append(name)

    def fuse(self, *names: str) -> None:
        self.lease = self.desk.memory.lease_to_weights(dict.fromkeys(names, 0))

    def let_go(self) -> None:
        assert self.lease is not None
        self.lease.release()
        self.asked.clear()


def test_what_is_fused_is_not_evicted_and_counts_as_no_request() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    weights, lease = Weights(desk), desk.lease("a0")
    weights.fuse("a0")
    lease.release()
    desk.touch(["b0", "c0", "d0"])
    assert desk.resident() == {"a0", "d0"}
    assert (desk.memory.device.num_pins, weights.asked) == (0, [])
    weights.let_go()
    desk.touch(["b0", "c0"])
    assert desk.resident() == {"b0", "c0"}
    desk.memory.check_integrity()


def test_only_what_is_leased_is_fused() -> None:
    desk = Desk()
    desk.touch(["a0"])
    with pytest.raises(AssertionError, match="without a lease"):
        desk.memory.lease_to_weights({"a0": 0})


def test_an_idle_fused_adapter_is_asked_back_by_whoever_wants_its_room() -> None:
    desk = Desk(device_bytes=SIZE)
    weights, lease = Weights(desk), desk.lease("a0")
    weights.fuse("a0")
    waiting = desk.ask("b0")
    desk.pool.run()
    assert weights.asked == [], "a request still uses it"
    lease.release()
    assert "a0" in weights.asked
    assert not waiting.done()
    weights.let_go()
    desk.pool.run()
    assert waiting.result(0)
    assert desk.resident() == {"b0"}


@pytest.mark.parametrize(
    ("num_pages", "asked"),
    [(6, []), (7, ["a0"]), (9, ["a0"]), (11, [])],
    ids=["an idle one will do", "not alone", "both", "nor both"],
)
def test_an_idle_fused_adapter_is_asked_back_by_sequences_that_want_its_pages(
    num_pages: int, asked: list[str]
) -> None:
    blocks = BlockManager(num_pages=10, page_size=4)
    desk = Desk(blocks=blocks, page_bytes=SIZE // 3)  # of ten pages an adapter takes four
    weights, lease = Weights(desk), desk.lease("a0")
    weights.fuse("a0")
    desk.touch(["b0"])
    assert blocks.allocate(7) is None
    assert weights.asked == [], "a request still uses it"
    lease.release()
    assert (blocks.allocate(num_pages) is None) == (num_pages > 6)
    assert weights.asked == asked
    if asked:
        weights.let_go()
        assert blocks.allocate(num_pages) is not None


def test_a_deleted_adapter_drains_once_the_weights_have_let_it_go() -> None:
    desk = Desk()
    weights, lease = Weights(desk), desk.lease("a0")
    weights.fuse("a0")
    drained = desk.memory.drain("a0")
    assert weights.asked == [], "a request that began before still uses it"
    lease.release()
    assert weights.asked == ["a0"]
    assert desk.memory.status("a0").state is State.DRAINING
    weights.let_go()
    desk.pool.run()
    assert drained.result(0).device == SIZE
    assert desk.resident() == set()


def test_an_adapter_that_is_pinned_too_stays_after_the_weights_let_it_go() -> None:
    desk = Desk()
    weights = Weights(desk)
    desk.lease("a0", hold=True)
    weights.fuse("a0")
    drained = desk.memory.drain("a0")
    assert weights.asked == []
    weights.let_go()
    assert drained.result(0) == Freed(0, 0), "its content was published anew"
    assert desk.resident() == {"a0"}
    desk.memory.check_integrity()

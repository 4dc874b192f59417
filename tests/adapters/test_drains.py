"""The way out: a deleted adapter serves who has it, then goes from every tier."""

import pytest
from memories import HOST_SIZE, SIZE, Desk

from server.adapters.status import Freed, State


def test_idle_adapter_goes_at_once_from_both_tiers() -> None:
    desk = Desk()
    desk.touch(["a0", "b0"])
    draining = desk.memory.drain("a0")
    desk.pool.run()
    assert draining.result(0) == Freed(host=HOST_SIZE, device=SIZE)
    assert desk.resident() == {"b0"}
    assert desk.memory.host.num_bytes == HOST_SIZE
    assert desk.memory.status("a0").state is State.STORED


def test_leased_adapter_drains_until_its_last_lease_ends() -> None:
    desk = Desk()
    leases = [desk.lease("a0"), desk.lease("a0")]
    draining = desk.memory.drain("a0")
    leases[0].release()
    desk.pool.run()
    assert not draining.done()
    assert desk.memory.status("a0").state is State.DRAINING
    assert desk.memory.get("a0").digest == "a0"
    leases[1].release()
    desk.pool.run()
    assert draining.result(0) == Freed(host=HOST_SIZE, device=SIZE)


def test_who_waits_for_an_adapter_still_gets_it_and_then_it_goes() -> None:
    desk = Desk(device_bytes=SIZE)
    running = desk.lease("b0")
    waiting = desk.ask("a0")
    draining = desk.memory.drain("a0")
    desk.pool.run()
    assert not draining.done()
    running.release()
    desk.pool.run()
    waiting.result(0).release()
    desk.pool.run()
    assert draining.result(0) == Freed(host=HOST_SIZE, device=SIZE)
    assert desk.resident() == set()


def test_who_gives_up_waiting_ends_a_drain() -> None:
    desk = Desk(device_bytes=SIZE)
    desk.lease("b0")
    waiting = desk.ask("a0")
    draining = desk.memory.drain("a0")
    waiting.cancel()
    desk.pool.run()
    assert draining.result(0).device == 0


def test_failed_load_ends_a_drain() -> None:
    desk = Desk()
    desk.failure = FileNotFoundError("deleted")
    waiting = desk.ask("a0")
    draining = desk.memory.drain("a0")
    desk.pool.run()
    assert draining.result(0) == Freed(host=0, device=0)
    with pytest.raises(FileNotFoundError):
        waiting.result(0)


def test_all_who_ask_for_a_drain_hear_of_its_end() -> None:
    desk = Desk()
    lease = desk.lease("a0")
    first, second = desk.memory.drain("a0"), desk.memory.drain("a0")
    lease.release()
    desk.pool.run()
    assert first.result(0) == second.result(0)


def test_adapter_that_comes_again_after_its_drain_is_loaded_anew() -> None:
    desk = Desk()
    desk.touch(["a0"])
    desk.memory.drain("a0")
    desk.lease("a0")
    assert desk.loads == ["a0", "a0"]
    assert desk.memory.status("a0").state is State.READY


def test_nothing_is_freed_of_what_is_nowhere() -> None:
    desk = Desk()
    draining = desk.memory.drain("a0")
    desk.pool.run()
    assert draining.result(0) == Freed(host=0, device=0)


def test_content_that_is_published_anew_stays() -> None:
    desk = Desk()
    lease = desk.lease("a0")
    draining = desk.memory.drain("a0")
    desk.memory.keep("a0")
    lease.release()
    desk.pool.run()
    assert draining.result(0) == Freed(host=0, device=0)
    assert desk.memory.status("a0").state is State.READY

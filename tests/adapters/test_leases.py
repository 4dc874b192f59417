"""Adapters on the device: loaded once, kept while leased, in turn when there is no room."""

from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from memories import HOST_SIZE, LARGE, NAMES, SIZE, Desk

from server.adapters.device import DeviceEntry
from server.adapters.errors import AdapterMemoryFull, LeaseQueueFull
from server.adapters.status import State
from server.adapters.waiting import MAX_PASSES


def test_leased_adapter_is_loaded_once_and_kept() -> None:
    desk = Desk()
    first, second = desk.lease("a0"), desk.lease("a0")
    assert desk.memory.device.num_pins == 2
    first.release()
    second.release()
    desk.lease("a0")
    assert desk.loads == ["a0"]
    assert desk.memory.get("a0").digest == "a0"


def test_a_lease_is_released_once_however_often_it_is_asked() -> None:
    desk = Desk()
    kept, released = desk.lease("a0", "b0"), desk.lease("a0")
    released.release()
    released.release()
    assert desk.memory.device.num_pins == 2
    kept.release()
    assert desk.memory.device.num_pins == 0


def test_the_base_needs_no_memory() -> None:
    Desk(device_bytes=1).lease().release()


def test_those_who_come_while_it_loads_share_the_load() -> None:
    desk = Desk()
    asked = [desk.ask("a0") for _ in range(8)]
    assert not any(lease.done() for lease in asked)
    assert desk.memory.status("a0").state is State.LOADING
    desk.pool.run()
    assert desk.loads == ["a0"]
    for lease in asked:
        lease.result(0).release()
    assert desk.memory.device.num_pins == 0


def test_least_recently_leased_goes_when_room_is_needed() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    desk.touch(["a0", "b0", "a0", "c0"])
    assert desk.resident() == {"a0", "c0"}


def test_what_left_the_device_comes_back_from_the_host() -> None:
    desk = Desk(device_bytes=SIZE)
    desk.touch(["a0", "b0", "a0", "b0"])
    assert desk.loads == ["a0", "b0"]
    assert desk.memory.device.counts.loads == 4


def test_host_keeps_what_was_used_last_within_its_budget() -> None:
    desk = Desk(device_bytes=SIZE, host_bytes=2 * HOST_SIZE)
    desk.touch(["a0", "b0", "a0", "c0", "a0", "b0"])
    assert desk.loads == ["a0", "b0", "c0", "b0"]
    assert desk.memory.host.num_bytes <= 2 * HOST_SIZE


def test_adapter_larger_than_the_host_budget_passes_through() -> None:
    desk = Desk(host_bytes=HOST_SIZE - 1)
    desk.lease("a0")
    assert desk.memory.host.num_bytes == 0


def test_who_finds_no_room_waits_for_a_release() -> None:
    desk = Desk(device_bytes=SIZE)
    running = desk.lease("a0")
    waiting = desk.ask("b0")
    desk.pool.run()
    assert not waiting.done()
    assert desk.loads == ["a0", "b0"], "it is fetched to the host meanwhile"
    assert desk.memory.status("b0").state is State.LOADING
    running.release()
    desk.pool.run()
    assert waiting.result(0)
    assert desk.resident() == {"b0"}


def test_lease_of_several_takes_all_or_waits_with_none() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    running = desk.lease("a0")
    both = desk.ask("b0", "c0")
    desk.pool.run()
    assert not both.done()
    assert desk.resident() == {"a0"}
    running.release()
    desk.pool.run()
    both.result(0)
    assert desk.resident() == {"b0", "c0"}


def test_two_who_want_each_others_adapters_do_not_block_each_other() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    holder = desk.lease("a0", "b0")
    first, second = desk.ask("b0", "c0"), desk.ask("c0", "a0")
    holder.release()
    desk.pool.run()
    first.result(0).release()
    desk.pool.run()
    second.result(0).release()


def test_those_who_need_no_room_pass_one_who_waits_but_not_for_ever() -> None:
    desk = Desk(device_bytes=SIZE)
    hot = [desk.lease("a0")]
    waiting = desk.ask("b0")
    desk.pool.run()
    for _ in range(MAX_PASSES):
        hot.append(desk.lease("a0"))
        hot.pop(0).release()
    late = desk.ask("a0")
    desk.pool.run()
    assert not late.done(), "the one that waits is next"
    hot.pop().release()
    desk.pool.run()
    waiting.result(0).release()
    desk.pool.run()
    assert late.result(0)


def test_first_come_is_first_served_among_those_who_need_room() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    running = [desk.lease("a0"), desk.lease("b0")]
    large = desk.ask("c0", "d0")
    small = desk.ask("e0")
    running[0].release()
    desk.pool.run()
    assert not large.done()
    assert not small.done(), "it would fit, and would keep the first one waiting"
    running[1].release()
    desk.pool.run()
    assert large.result(0)
    assert not small.done()


def test_what_was_evicted_while_a_claim_waited_is_fetched_again() -> None:
    desk = Desk(device_bytes=2 * SIZE, host_bytes=1)
    desk.touch(["a0"])
    running = desk.lease("b0"), desk.lease("c0")
    waiting = desk.ask("a0", "d0")  # a0 went when c0 came
    for lease in running:
        lease.release()
    desk.pool.run()
    assert waiting.result(0)
    assert desk.loads == ["a0", "b0", "c0", "a0", "d0"]


def test_adapter_that_never_fits_is_refused_and_evicts_nothing() -> None:
    desk = Desk(device_bytes=LARGE - 1)
    desk.touch(["a0"])
    asked = desk.ask("large")
    desk.pool.run()
    with pytest.raises(AdapterMemoryFull) as caught:
        asked.result(0)
    assert (caught.value.needed, caught.value.pinned) == (LARGE, 0)
    assert desk.resident() == {"a0"}


def test_operators_pins_are_never_waited_for() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    held = desk.lease("a0", hold=True)
    assert desk.memory.device.num_pins == 0, "pins count requests"
    asked = desk.ask("b0", "c0")
    desk.pool.run()
    with pytest.raises(AdapterMemoryFull) as caught:
        asked.result(0)
    assert caught.value.pinned == SIZE
    desk.touch(["b0", "c0"])
    assert "a0" in desk.resident()
    held.release()
    desk.touch(["b0", "d0"])
    assert "a0" not in desk.resident()


def test_failed_load_reaches_everyone_who_waits_and_is_tried_anew() -> None:
    desk = Desk()
    desk.failure = OSError("disk")
    asked = [desk.ask("a0"), desk.ask("a0", "b0")]
    desk.pool.run()
    for lease in asked:
        with pytest.raises(OSError, match="disk"):
            lease.result(0)
    desk.failure = None
    desk.lease("a0").release()
    assert desk.loads == ["a0", "b0", "a0"]
    assert desk.memory.device.num_pins == desk.memory.num_waiting == 0


def test_failed_layout_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(device_bytes=SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(desk.memory, "_make", _no_memory)
        asked = desk.ask("a0")
        desk.pool.run()
    with pytest.raises(MemoryError):
        asked.result(0)
    assert desk.memory.device.num_bytes == 0
    desk.lease("b0")


def test_one_who_gives_up_lets_those_behind_it_through() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    running = desk.lease("a0")
    desk.pool.run()
    first, second = desk.ask("b0", "c0"), desk.ask("d0")
    desk.pool.run()
    assert first.cancel()
    desk.pool.run()
    assert second.result(0)
    with pytest.raises(CancelledError):
        first.result(0)
    running.release()
    assert desk.memory.num_waiting == 0


def test_one_who_gives_up_while_it_loads_leaves_nothing_pinned() -> None:
    desk = Desk()
    asked = desk.ask("a0")
    assert asked.cancel()
    desk.pool.run()
    assert desk.memory.device.num_pins == desk.memory.num_waiting == 0


def test_no_more_wait_than_the_server_holds() -> None:
    desk = Desk(device_bytes=SIZE, max_waiting=2)
    running = desk.lease("a0")
    waiting = [desk.ask("b0"), desk.ask("c0")]
    with pytest.raises(LeaseQueueFull) as caught:
        desk.ask("d0")
    assert caught.value.limit == 2
    running.release()
    desk.pool.run()
    waiting[0].result(0).release()
    desk.pool.run()
    waiting[1].result(0).release()
    desk.lease("d0")


def test_use_without_a_lease_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="without a lease"):
        Desk().memory.get("a0")


def test_use_before_the_lease_is_given_is_our_mistake() -> None:
    desk = Desk()
    desk.ask("a0")
    desk.pool.run_at(0)  # loaded to the host, not yet laid out
    with pytest.raises(AssertionError, match="before its lease"):
        desk.memory.get("a0")
    desk.pool.run()


def test_threads_at_once_leave_nothing_behind() -> None:
    desk = Desk(device_bytes=4 * SIZE)
    names = [f"{letter}{number}" for letter in "abcd" for number in range(4)]

    def one(index: int) -> None:
        asked = desk.ask(names[index % 16], names[(index * 7) % 16])
        asked.result(30).release()

    with ThreadPoolExecutor(2) as loaders, ThreadPoolExecutor(8) as clients:
        desk.pool.submit = loaders.submit  # type: ignore[method-assign]
        list(clients.map(one, range(400)))
    desk.memory.check_integrity()
    assert desk.memory.device.num_pins == desk.memory.num_waiting == 0


def _no_memory(*args: object) -> None:
    raise MemoryError


def test_pins_are_counted_while_adapters_come_and_go() -> None:
    desk = Desk()
    leases = [desk.lease("a0"), desk.lease("b0")]

    class Moving(DeviceEntry):
        """Another thread pins an adapter just now."""

        @property
        def pins(self) -> int:
            desk.memory.device._entries["c0"] = DeviceEntry("c0", 0)
            return 1

        @pins.setter
        def pins(self, count: int) -> None:
            pass

    desk.memory.device._entries["a0"] = Moving("a0", SIZE)
    assert desk.memory.device.num_pins == len(leases)


def test_all_of_a_long_queue_are_served_though_everything_was_evicted_meanwhile() -> None:
    names = NAMES[:170]
    desk = Desk(device_bytes=(len(names) + 1) * SIZE)
    desk.touch(names)
    held = desk.lease("h23")
    head = desk.ask(*names, "h22")
    asked = [desk.ask(name, "h24") for name in names]
    desk.pool.run()
    assert not head.done()
    desk.memory.give_way(len(names) * SIZE)
    head.cancel()
    held.release()
    desk.pool.run()
    for lease in asked:
        lease.result(0).release()


def test_those_who_wait_for_room_keep_no_more_than_the_host_may() -> None:
    desk = Desk(device_bytes=SIZE, host_bytes=2 * HOST_SIZE)
    held = desk.lease("a0")
    asked = [desk.ask(name) for name in NAMES[1:21]]
    desk.pool.run()
    assert desk.memory.num_waiting == len(asked)
    assert sum(len(claim.fetched) for claim in desk.memory._waiting._claims) <= 1
    held.release()
    for lease in asked:
        desk.pool.run()
        lease.result(0).release()
    desk.memory.check_integrity()


@pytest.mark.parametrize("host_bytes", [1, HOST_SIZE])
def test_what_no_host_keeps_is_served_in_turn(host_bytes: int) -> None:
    desk = Desk(device_bytes=2 * SIZE, host_bytes=host_bytes)
    held = desk.lease("a0", "b0")
    asked = [desk.ask(*pair) for pair in (("c0", "d0"), ("e0",), ("c0", "e0"), ("f0", "a0"))]
    desk.pool.run()
    held.release()
    for lease in asked:
        desk.pool.run()
        lease.result(0).release()

"""Prototypes come and go with leases: made once, beside the engine, their bytes counted."""

from concurrent.futures import Future

import pytest
import torch
from memories import ADAPTERS, HOST_SIZE, PLENTY, SIZE, Desk, Named

from server.adapters.claims import AdapterLease
from server.adapters.composition import prototypes_id
from server.adapters.prototypes import make_prototypes
from server.adapters.sources import PrototypesOf

PROTOTYPE_BYTES = make_prototypes(ADAPTERS["a0"]).num_bytes


def ask(desk: Desk, *names: str) -> "Future[AdapterLease]":
    """A lease of adapters with their prototypes."""
    plain = [Named(name, desk) for name in names]
    made = [PrototypesOf(source, desk.memory.host.fetch, desk.pool) for source in plain]
    return desk.memory.lease([*plain, *made])


def routed_lease(desk: Desk, *names: str) -> AdapterLease:
    asked = ask(desk, *names)
    desk.pool.run()
    return asked.result(0)


def test_a_routed_lease_has_adapters_and_their_prototypes() -> None:
    desk = Desk()
    routed_lease(desk, "a0", "b0")
    for name in ("a0", "b0"):
        assert desk.memory.get(name).operands.keys() == {ADAPTERS[name].deltas[0].layer}
        expected = make_prototypes(ADAPTERS[name]).directions
        found = desk.memory.get(prototypes_id(name)).directions
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[layer], expected[layer]) for layer in found)
    assert desk.memory.device.num_bytes == 2 * (SIZE + PROTOTYPE_BYTES)
    desk.memory.check_integrity()


def test_an_adapter_is_loaded_once_for_both_and_prototypes_are_made_once() -> None:
    desk = Desk()
    asked = [ask(desk, "a0") for _ in range(5)]
    assert not any(lease.done() for lease in asked)  # nothing is made by who asks
    desk.pool.run()
    for lease in asked:
        lease.result(0).release()
    assert desk.loads == ["a0"]
    assert desk.memory.host.counts.loads == 2
    assert desk.memory.device.num_pins == 0


def test_a_plain_lease_needs_no_prototypes() -> None:
    desk = Desk()
    desk.lease("a0")
    assert desk.memory.device.find(prototypes_id("a0")) is None


def test_idle_prototypes_leave_the_device_for_others() -> None:
    desk = Desk(device_bytes=2 * SIZE)
    routed_lease(desk, "a0").release()
    desk.touch(["b0", "c0"])
    assert desk.memory.device.find(prototypes_id("a0")) is None
    routed_lease(desk, "a0").release()
    assert desk.loads.count("a0") == 1  # both came back from the host


def test_prototypes_of_an_adapter_too_large_for_the_host_are_made_nevertheless() -> None:
    desk = Desk(host_bytes=HOST_SIZE - 1)
    routed_lease(desk, "a0")
    assert desk.memory.get(prototypes_id("a0")).num_bytes == PROTOTYPE_BYTES


def test_what_loading_raises_ends_the_lease_and_pins_nothing() -> None:
    desk = Desk(device_bytes=PLENTY, failure=OSError("no disk"))
    asked = ask(desk, "a0", "b0")
    desk.pool.run()
    with pytest.raises(OSError, match="no disk"):
        asked.result(0)
    assert desk.memory.device.num_pins == 0
    desk.failure = None
    routed_lease(desk, "a0", "b0").release()


def test_what_making_raises_ends_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    desk = Desk()
    with monkeypatch.context() as patch:
        patch.setattr("server.adapters.sources.make_prototypes", fail)
        asked = ask(desk, "a0")
        desk.pool.run()
        with pytest.raises(MemoryError):
            asked.result(0)
    routed_lease(desk, "a0").release()
    assert desk.memory.device.num_pins == 0

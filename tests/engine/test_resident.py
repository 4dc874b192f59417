"""Adapters on the device: loaded once, kept while leased, evicted by bytes, never half there."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from store_factories import random_adapter

from adapters_store.adapter import SparseAdapter
from server.adapters.delta import make_resident
from server.adapters.errors import AdapterMemoryFull
from server.adapters.resident import ResidentAdapters
from server.kernels.reference import ReferenceKernels

KERNELS = ReferenceKernels(torch.device("cpu"))
ADAPTERS = {name: random_adapter(seed) for seed, name in enumerate("abc")}
ADAPTERS["large"] = random_adapter(kind="dense")
SIZE, LARGE_SIZE = (make_resident(ADAPTERS[n], KERNELS).num_bytes for n in ("a", "large"))


class Loader:
    """Loads by name, counts, and can be made to fail."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, name: str) -> SparseAdapter:
        self.loaded.append(name)
        if self.failure is not None:
            raise self.failure
        return ADAPTERS[name]


def residents(max_bytes: int = 1 << 30) -> tuple[ResidentAdapters, Loader]:
    loader = Loader()
    return ResidentAdapters(loader, KERNELS, max_bytes), loader


def test_leased_adapter_is_loaded_once_and_kept() -> None:
    adapters, loader = residents()
    first, second = adapters.lease(["a"]), adapters.lease(["a"])
    assert adapters.num_pins == 2
    first.release()
    second.release()
    adapters.lease(["a"])
    assert loader.loaded == ["a"]
    assert adapters.get("a").digest == ADAPTERS["a"].digest


def test_a_lease_is_released_once_however_often_it_is_asked() -> None:
    adapters, _ = residents()
    kept, released = adapters.lease(["a", "b"]), adapters.lease(["a"])
    released.release()
    released.release()
    assert adapters.num_pins == 2
    kept.release()
    assert adapters.num_pins == 0


def test_least_recently_leased_goes_when_room_is_needed() -> None:
    adapters, loader = residents(max_bytes=2 * SIZE)
    for name in ("a", "b", "a", "c", "a", "b"):
        adapters.lease([name]).release()
    assert loader.loaded == ["a", "b", "c", "b"]
    assert adapters.num_bytes <= 2 * SIZE


def test_leased_adapters_are_never_evicted() -> None:
    adapters, loader = residents(max_bytes=SIZE)
    lease = adapters.lease(["a"])
    with pytest.raises(AdapterMemoryFull) as caught:
        adapters.lease(["b"])
    assert (caught.value.needed, caught.value.pinned, caught.value.budget) == (SIZE, SIZE, SIZE)
    assert adapters.num_pins == 1
    lease.release()
    adapters.lease(["b"])
    assert loader.loaded == ["a", "b", "b"]


def test_adapter_that_cannot_fit_evicts_nothing() -> None:
    adapters, loader = residents(max_bytes=LARGE_SIZE - 1)
    adapters.lease(["a"]).release()
    with pytest.raises(AdapterMemoryFull) as caught:
        adapters.lease(["large"])
    assert caught.value.pinned == 0
    adapters.lease(["a"])
    assert loader.loaded == ["a", "large"]


def test_failed_lease_of_several_keeps_none() -> None:
    adapters, loader = residents()
    loader.failure = None
    with pytest.raises(KeyError):
        adapters.lease(["a", "missing"])
    assert adapters.num_pins == 0


def test_failed_load_is_tried_anew() -> None:
    adapters, loader = residents()
    loader.failure = OSError("disk")
    with pytest.raises(OSError, match="disk"):
        adapters.lease(["a"])
    loader.failure = None
    adapters.lease(["a"]).release()
    assert loader.loaded == ["a", "a"]


def test_discarded_adapter_goes_when_its_last_lease_does() -> None:
    adapters, _ = residents()
    lease = adapters.lease(["a"])
    assert adapters.discard("a") == 0
    assert adapters.get("a") is not None
    lease.release()
    assert adapters.num_bytes == 0
    assert adapters.discard("a") == 0


def test_discarding_an_idle_adapter_frees_its_bytes() -> None:
    adapters, _ = residents()
    adapters.lease(["a"]).release()
    assert adapters.discard("a") == SIZE
    assert adapters.num_bytes == 0


def test_use_without_a_lease_is_our_mistake() -> None:
    adapters, _ = residents()
    with pytest.raises(KeyError):
        adapters.get("a")


def test_concurrent_leases_share_one_load() -> None:
    started, go_on, loaded = threading.Event(), threading.Event(), []

    def load(name: str) -> SparseAdapter:
        loaded.append(name)
        started.set()
        assert go_on.wait(10)
        return ADAPTERS[name]

    adapters = ResidentAdapters(load, KERNELS, 1 << 30)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(adapters.lease, ["a"])
        assert started.wait(10)
        others = [pool.submit(adapters.lease, ["a"]) for _ in range(7)]
        go_on.set()
        for lease in [first, *others]:
            lease.result(10).release()
    assert loaded == ["a"]
    assert adapters.num_pins == 0


def test_adapter_discarded_while_its_load_fails_is_forgotten_once() -> None:
    started, go_on = threading.Event(), threading.Event()

    def load(name: str) -> SparseAdapter:
        if started.is_set():
            return ADAPTERS[name]
        started.set()
        assert go_on.wait(10)
        raise OSError("deleted")

    adapters = ResidentAdapters(load, KERNELS, 1 << 30)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(adapters.lease, ["a"])
        assert started.wait(10)
        assert adapters.discard("a") == 0
        go_on.set()
        with pytest.raises(OSError, match="deleted"):
            failing.result(10)
    adapters.lease(["a"])
    assert adapters.get("a").digest == ADAPTERS["a"].digest


def test_a_failed_load_reaches_everyone_who_waits() -> None:
    started, go_on = threading.Event(), threading.Event()

    def load(name: str) -> SparseAdapter:
        started.set()
        assert go_on.wait(10)
        raise OSError("disk")

    adapters = ResidentAdapters(load, KERNELS, 1 << 30)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(adapters.lease, ["a"])]
        assert started.wait(10)
        waiting.append(pool.submit(adapters.lease, ["a"]))
        go_on.set()
        for lease in waiting:
            with pytest.raises(OSError, match="disk"):
                lease.result(10)
    assert adapters.num_pins == 0

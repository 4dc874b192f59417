"""What is asked of torch's CUDA, without any: streams, events and graphs under our names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from server.device.cuda import CudaDevice


class FakeTorchCuda:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def mem_get_info(self, place: torch.device) -> tuple[int, int]:
        return 3, 10

    def synchronize(self, place: torch.device) -> None:
        self.log.append("synchronize")

    def current_stream(self, place: torch.device) -> "FakeStream":
        return FakeStream(self.log, "current")

    def default_stream(self, place: torch.device) -> "FakeStream":
        return FakeStream(self.log, "default")

    def Stream(self, place: torch.device) -> "FakeStream":
        return FakeStream(self.log, "own")

    def CUDAGraph(self) -> "FakeGraph":
        return FakeGraph(self.log)

    @contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.log.append(("capture", pool, stream.name, capture_error_mode))
        yield
        self.log.append("captured")

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        self.log.append(f"use {stream.name}")
        yield


class FakeGraph:
    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def pool(self) -> str:
        return "the pool"

    def replay(self) -> None:
        self._log.append("replay")


class FakeStream:
    def __init__(self, log: list[Any], name: str) -> None:
        self._log, self.name = log, name

    def synchronize(self) -> None:
        self._log.append(f"wait for {self.name}")

    def record_event(self) -> "FakeEvent":
        return FakeEvent(self._log)

    def wait_event(self, event: "FakeEvent") -> None:
        self._log.append(f"{self.name} waits")


class FakeEvent:
    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def synchronize(self) -> None:
        self._log.append("host waits")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTorchCuda:
    fake = FakeTorchCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


@pytest.fixture
def device() -> CudaDevice:
    return CudaDevice("NVIDIA A10", torch.device("cuda", 0))


def test_work_is_done_before_it_is_captured_and_captures_share_a_pool(
    fake: FakeTorchCuda, device: CudaDevice
) -> None:
    for _ in range(2):
        device.record(lambda: fake.log.append("work")).replay()
    once = ["work", "wait for current", "capture", "work", "captured", "replay"]
    assert [each if isinstance(each, str) else each[0] for each in fake.log] == once * 2
    captures = [each for each in fake.log if isinstance(each, tuple)]
    assert captures == [
        ("capture", None, "current", "thread_local"),
        ("capture", "the pool", "current", "thread_local"),
    ]


def test_streams_wait_for_events_and_hosts_only_where_they_are_told_to(
    fake: FakeTorchCuda, device: CudaDevice
) -> None:
    own, usual = device.stream(), device.usual()
    with own.use():
        event = own.mark()
    usual.wait_for(event)
    assert fake.log == ["use own", "default waits"]
    event.wait()
    device.synchronize()
    assert fake.log[2:] == ["host waits", "synchronize"]


def test_memory_is_what_the_driver_says(fake: FakeTorchCuda, device: CudaDevice) -> None:
    assert device.memory() == (10, 3)

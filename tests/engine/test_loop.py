"""The hand-over between asyncio and the engine's thread: nothing is lost, nothing is held on to."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from engines import FakeRunner, expected_tokens, request, spell

from server.adapters.claims import AdapterLease
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import EngineStopped, QueueFull
from server.engine.loop import EngineLoop, OutputStream
from server.engine.runner import EntryResult
from server.engine.scheduled import ScheduledBatch
from server.engine.sequence import FinishReason
from server.kernels.stacked import Meanwhile

DEADLINE_S = 20


class GatedRunner(FakeRunner):
    """Waits at the gate before every step; may shut it after so many."""

    def __init__(self, page_size: int) -> None:
        super().__init__(page_size)
        self.gate = threading.Event()
        self.gate.set()
        self.steps_until_shut: int | None = None

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
        meanwhile()
        assert self.gate.wait(DEADLINE_S)
        results = super().run(batch)
        if len(self.batches) == self.steps_until_shut:
            self.gate.clear()
        return results


class Setting:
    """A loop over a fake engine, with the leases that were handed to it."""

    def __init__(self, **sizes: Any) -> None:
        config = replace(EngineConfig(max_model_len=1000, num_pages=600, page_size=4), **sizes)
        self.runner = GatedRunner(config.page_size)
        self.engine = Engine(config, self.runner, spell, frozenset())
        self.loop = EngineLoop(self.engine)
        self.released: list[str] = []

    def lease(self, name: str) -> AdapterLease:
        return _NamedLease(name, self.released)


class _NamedLease(AdapterLease):
    def __init__(self, name: str, released: list[str]) -> None:
        super().__init__(lambda: None)
        self._name, self._released = name, released

    def release(self) -> None:
        self._released.append(self._name)


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    made.loop.start()
    yield made
    made.runner.gate.set()
    made.loop.stop()
    made.engine.check_integrity()
    assert made.engine.scheduler.blocks.num_held == 0


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, DEADLINE_S)

    asyncio.run(bounded())


async def until(condition: Any) -> None:
    """Give way until `condition()` holds; the test's deadline bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


async def read_on(stream: OutputStream) -> None:
    """Read until there is nothing more."""
    async for _ in stream:
        pass


def test_outputs_come_in_order_and_end_once(setting: Setting) -> None:
    async def work() -> None:
        stream = setting.loop.submit(request("a", [1, 2], max_tokens=5), setting.lease("a"))
        outputs = [output async for output in stream]
        assert [t for o in outputs for t in o.token_ids] == expected_tokens([1, 2], 5)
        assert [o.finish_reason for o in outputs] == [None] * 4 + [FinishReason.LENGTH]
        assert setting.released == ["a"]

    run(work())


def test_many_requests_each_get_their_own(setting: Setting) -> None:
    async def one(index: int) -> None:
        name = str(index)
        stream = setting.loop.submit(request(name, [index], max_tokens=9), setting.lease(name))
        tokens = [token async for output in stream for token in output.token_ids]
        assert tokens == expected_tokens([index], 9)

    async def work() -> None:
        await asyncio.gather(*(one(index) for index in range(50)))
        assert sorted(setting.released, key=int) == [str(index) for index in range(50)]

    run(work())


def test_a_step_wakes_the_event_loop_once_for_all_of_its_outputs(setting: Setting) -> None:
    async def work() -> None:
        loop, wakings = asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counted(*arguments: Any) -> Any:
            nonlocal wakings
            wakings += 1
            return wake(*arguments)

        loop.call_soon_threadsafe = counted  # type: ignore[assignment]
        setting.runner.gate.clear()
        asked = [request(str(index), [index], max_tokens=4) for index in range(8)]
        streams = [setting.loop.submit(own, setting.lease(own.request_id)) for own in asked]
        setting.runner.gate.set()
        await asyncio.gather(*map(read_on, streams))
        assert wakings == len(setting.runner.batches) < 4 * len(asked)

    run(work())


def test_closing_a_stream_aborts_its_request(setting: Setting) -> None:
    async def work() -> None:
        setting.runner.steps_until_shut = 1
        stream = setting.loop.submit(request("a", [1], max_tokens=900), setting.lease("a"))
        await anext(stream)
        stream.close()
        stream.close()
        setting.runner.gate.set()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await until(lambda: setting.released)
        assert setting.engine.stats().finished["abort"] == 1

    run(work())


def test_request_nobody_reads_is_aborted_by_close(setting: Setting) -> None:
    async def work() -> None:
        setting.runner.gate.clear()
        stream = setting.loop.submit(request("a", [1], max_tokens=900), setting.lease("a"))
        stream.close()
        setting.runner.gate.set()
        await until(lambda: setting.released == ["a"])

    run(work())


def test_closing_after_the_end_aborts_nothing(setting: Setting) -> None:
    async def work() -> None:
        stream = setting.loop.submit(request("a", [1], max_tokens=1), setting.lease("a"))
        assert len([output async for output in stream]) == 1
        stream.close()
        again = setting.loop.submit(request("b", [1], max_tokens=1), setting.lease("b"))
        assert len([output async for output in again]) == 1
        assert setting.engine.stats().finished["abort"] == 0

    run(work())


def test_full_queue_is_told_and_holds_nothing() -> None:
    setting = Setting(max_queued_requests=1, max_num_seqs=1)
    setting.loop.start()

    async def work() -> None:
        setting.runner.gate.clear()
        running = setting.loop.submit(request("a", [1], max_tokens=2), setting.lease("a"))
        await until(lambda: setting.engine.stats().num_running == 1)
        waiting = setting.loop.submit(request("b", [1], max_tokens=2), setting.lease("b"))
        refused = setting.loop.submit(request("c", [1], max_tokens=2), setting.lease("c"))
        setting.runner.gate.set()
        with pytest.raises(QueueFull):
            await anext(refused)
        assert setting.released[0] == "c"
        for stream in (running, waiting):
            assert [output async for output in stream][-1].finish_reason is FinishReason.LENGTH

    try:
        run(work())
    finally:
        setting.loop.stop()


def test_stopping_ends_what_runs_and_refuses_what_comes(setting: Setting) -> None:
    async def work() -> None:
        setting.runner.steps_until_shut = 1
        stream = setting.loop.submit(request("a", [1], max_tokens=900), setting.lease("a"))
        await anext(stream)
        stopping = asyncio.create_task(asyncio.to_thread(setting.loop.stop))
        await until(lambda: not setting.loop.is_running)
        setting.runner.gate.set()
        await stopping
        with pytest.raises(EngineStopped):
            await read_on(stream)
        assert not setting.loop.is_running
        with pytest.raises(EngineStopped):
            setting.loop.submit(request("b", [1]), setting.lease("b"))
        assert setting.released == ["a", "b"]

    run(work())
    setting.engine.abort("a")


def test_a_defect_in_the_engine_leaves_nobody_waiting(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(meanwhile: Meanwhile) -> None:
        raise KeyError("defect")

    async def work() -> None:
        setting.runner.steps_until_shut = 1
        stream = setting.loop.submit(request("a", [1], max_tokens=900), setting.lease("a"))
        await anext(stream)
        monkeypatch.setattr(setting.engine, "step", defect)
        setting.runner.gate.set()
        with pytest.raises(EngineStopped):
            await read_on(stream)
        await until(lambda: not setting.loop.is_running)
        assert setting.released == ["a"]

    run(work())
    setting.engine.abort("a")


def test_a_broken_engine_is_asked_nothing_more_and_leaves_nobody_waiting(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(request_id: str) -> None:
        raise KeyError(request_id)

    async def work() -> None:
        setting.runner.gate.clear()
        names = ["read", "closed", "closed too"]
        streams = [setting.loop.submit(request(n, [1]), setting.lease(n)) for n in names]
        await until(lambda: setting.engine.stats().num_running > 0)  # the step waits, with some
        with monkeypatch.context() as broken:
            broken.setattr(setting.engine, "abort", defect)
            for stream in streams[1:]:
                stream.close()
            late = setting.loop.submit(request("late", [1]), setting.lease("late"))
            setting.runner.gate.set()
            for stream in (streams[0], late):
                with pytest.raises(EngineStopped):
                    await read_on(stream)
            await until(lambda: sorted(setting.released) == sorted([*names, "late"]))

    run(work())
    for name in ("read", "closed", "closed too"):
        setting.engine.abort(name)


class ClosingLoop:
    """An event loop that is closed by another thread just before it is called."""

    def __init__(self) -> None:
        self.was_called = threading.Event()

    def is_closed(self) -> bool:
        return self.was_called.is_set()

    def call_soon_threadsafe(self, *call: object) -> None:
        self.was_called.set()
        raise RuntimeError("Event loop is closed")


def test_consumer_that_goes_with_its_loop_harms_nobody(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = ClosingLoop()
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "get_running_loop", lambda: closing)
        setting.loop.submit(request("gone", [1], max_tokens=3), setting.lease("gone"))
    assert closing.was_called.wait(DEADLINE_S)

    async def work() -> None:
        stream = setting.loop.submit(request("a", [1], max_tokens=3), setting.lease("a"))
        await read_on(stream)
        assert sorted(setting.released) == ["a", "gone"]

    run(work())


@pytest.mark.parametrize("seed", range(5))
def test_every_request_ends_once_whatever_its_reader_does_and_whenever_it_stops(seed: int) -> None:
    setting = Setting(max_queued_requests=8, max_num_seqs=4, num_pages=250)
    setting.loop.start()
    source, submitted = random.Random(seed), list[str]()

    async def visit(name: str, steps_before: int, reads: int, how: str) -> None:
        for _ in range(steps_before):
            await asyncio.sleep(0)
        submitted.append(name)
        wanted = request(name, [len(name)], max_tokens=source.randrange(0, 30))
        stream = setting.loop.submit(wanted, setting.lease(name))
        try:
            for _ in range(reads):
                await anext(stream)
            if how == "read on":
                await read_on(stream)
        finally:
            stream.close()

    async def work() -> None:
        hows = ("read on", "close", "cancel")
        visits = [
            (source.randrange(200), source.randrange(20), source.choice(hows)) for _ in range(150)
        ]
        tasks = [asyncio.create_task(visit(f"{index}", *plan)) for index, plan in enumerate(visits)]
        for task, (_, _, how) in zip(tasks, visits, strict=True):
            if how == "cancel" and source.random() < 0.5:
                task.cancel()
            await asyncio.sleep(0)
        await until(lambda: len(submitted) > 100)
        await asyncio.to_thread(setting.loop.stop)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        expected = (type(None), EngineStopped, QueueFull, StopAsyncIteration)
        assert all(isinstance(end, (*expected, asyncio.CancelledError)) for end in ends)
        assert sorted(setting.released) == sorted(submitted)

    run(work())

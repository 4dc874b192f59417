"""What goes on beside a step begins once, when nothing is left to do but to compute."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from device_engines import device_engine, plain_engine
from engines import FakeRunner, MakeEngine, RealEngine, request, spell
from recorded_kernels import LoggingDevice, StepKernels

from server.adapters.claims import AdapterLease
from server.adapters.composition import BASE, Composition
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.loop import EngineLoop
from server.engine.runner import EntryResult
from server.engine.scheduled import ScheduledBatch
from server.engine.sequence import GenerationRequest, Mode
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.stacked import Meanwhile

DEADLINE_S = 30


def some_requests(real: RealEngine) -> list[GenerationRequest]:
    digests = sorted(real.adapters)
    single, routed = (
        Composition.linear([(digests[0], 1.0)]),
        Composition.arrow([(digest, 1.0) for digest in digests[:3]], 0.5, None),
    )
    return [
        request(str(index), range(5, 9 + index), composition, max_tokens=6, ignore_eos=True)
        for index, composition in enumerate([BASE, single, BASE, routed])
    ]


def assert_called_once_a_step(engine: Engine, requests: list[GenerationRequest]) -> None:
    for one in requests:
        engine.add(one)
    steps = 0
    calls: list[int] = []
    while engine.has_work:
        engine.step(meanwhile=partial(calls.append, steps))
        steps += 1
    assert calls == list(range(steps))


@pytest.mark.parametrize("kernels", ["cpu", "int8", "reference"])
@pytest.mark.parametrize("wanted", [slice(0, 1), slice(0, 3), slice(0, 4)], ids=str)
def test_once_in_every_step(tiny_engine: MakeEngine, kernels: str, wanted: slice) -> None:
    real = tiny_engine("phi3-mini")
    if kernels != "cpu":
        own = Int8CpuKernels() if kernels == "int8" else StepKernels("cpu")
        real = real.with_kernels(own)
    assert_called_once_a_step(real.engine()[0], some_requests(real)[wanted])


@pytest.mark.parametrize("wanted", [slice(0, 1), slice(0, 3), slice(0, 4)], ids=str)
def test_once_in_every_step_of_a_device(tiny_engine: MakeEngine, wanted: slice) -> None:
    real = tiny_engine("phi3-mini").with_kernels(StepKernels("cpu"))
    served = device_engine(real, LoggingDevice())
    assert_called_once_a_step(served.engine, some_requests(real)[wanted])


def test_once_beside_a_fused_adapter(tiny_engine: MakeEngine) -> None:
    real = tiny_engine("phi3-mini").with_kernels(StepKernels("cpu"))
    element = next(d for d, own in sorted(real.adapters.items()) if set(own.kinds) == {"element"})
    composition = Composition.linear([(element, 1.0)])
    fused = request("fused", range(5, 9), composition, mode=Mode.FUSED, max_tokens=4)
    served = plain_engine(real, may_fuse=True)
    try:
        assert_called_once_a_step(served.engine, [fused, request("base", range(5, 9))])
    finally:
        assert served.fuser is not None
        served.fuser.undo()


@pytest.mark.parametrize("prompt_tokens", [4, 100], ids=["all layers at once", "one by one"])
def test_before_anything_is_computed(tiny_engine: MakeEngine, prompt_tokens: int) -> None:
    engine, runner = tiny_engine("phi3-mini").engine()
    engine.add(request("a", [5] * prompt_tokens, max_tokens=1))
    written: list[bool] = []
    engine.step(meanwhile=lambda: written.append(_any(runner.cache.keys)))
    assert written == [False]
    assert _any(runner.cache.keys)


def _any(tensors: tuple[torch.Tensor, ...]) -> bool:
    return any(bool(tensor.any()) for tensor in tensors)


class LoggingRunner(FakeRunner):
    """Notes when a step begins, and when it has nothing left to do but to compute."""

    def __init__(self, page_size: int, log: Callable[[str], None]) -> None:
        super().__init__(page_size)
        self._log = log

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
        self._log("prepare")
        meanwhile()
        self._log("compute")
        return super().run(batch)


def test_readers_are_woken_while_the_next_step_computes_and_after_the_last() -> None:
    log: list[str] = []
    config = EngineConfig(max_model_len=100, num_pages=60, page_size=4)
    loop = EngineLoop(Engine(config, LoggingRunner(4, log.append), spell, frozenset()))
    loop.start()

    async def read() -> None:
        here = asyncio.get_running_loop()
        wake = here.call_soon_threadsafe

        def logged(*arguments: Any) -> Any:
            if threading.current_thread().name == "engine":
                log.append("wake")
            return wake(*arguments)

        here.call_soon_threadsafe = logged  # type: ignore[assignment]
        asked = request("a", [1, 2], max_tokens=3)
        async for _ in loop.submit(asked, AdapterLease(lambda: None)):
            pass

    try:
        asyncio.run(asyncio.wait_for(read(), DEADLINE_S))
    finally:
        loop.stop()
    first, others = ["prepare", "compute"], ["prepare", "wake", "compute"]
    assert log == [*first, *others, *others, "wake"]

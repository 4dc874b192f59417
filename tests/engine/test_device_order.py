"""What a step asks of its device, in order: no wait and no copy but those that are known.

The device is torch's `meta`, whose tensors have no numbers: whoever asks one of them for a number
(`item`, `tolist`, `cpu`, `nonzero`, a mask as an index, `if tensor`) fails.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from device_engines import Served, device_engine
from engines import MakeEngine, RealEngine, request
from recorded_kernels import LoggingDevice, LoggingEvent, StepKernels
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from server.adapters.composition import Composition
from server.device.interface import Device
from server.device.uploads import Arrival
from server.engine.engine import Engine

aten = torch.ops.aten
LIKELIEST = 42  # the token that comes from the device
MODES = ("base", "adapters")


class Crossings(TorchDispatchMode):
    """Logs copies between host and `meta`; what comes from there are the numbers `landing`."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._log = log

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.copy_.default:
            target, source = args[:2]
            if source.is_meta and not target.is_meta:
                self._log.append("to host")
                return target.fill_(LIKELIEST)
            if target.is_meta and not source.is_meta:
                self._log.append("to device")
        made = func(*args, **kwargs)
        is_moved = func.overloadpacket in (aten.to, aten._to_copy)
        if is_moved and made.is_meta and not args[0].is_meta:
            self._log.append("to device")
        return made


@pytest.fixture
def real(tiny_engine: MakeEngine) -> RealEngine:
    """A base on a CPU and adapters on `meta`."""
    return tiny_engine("phi3-mini").with_kernels(StepKernels("meta"))


def serve(real: RealEngine, device: Device, **ways: Any) -> Served:
    """An engine that has three sequences decoding, the first two steps done."""
    served = device_engine(real, device, max_num_seqs=4)
    digests = sorted(real.adapters)
    for n in range(3):
        composition = Composition.linear([(digests[n], 1.0)] if ways["mode"] == "adapters" else [])
        own = {key: value for key, value in ways.items() if key != "mode"}
        one = request(str(n), [9 + n, 5, 6], composition, max_tokens=30, ignore_eos=True, **own)
        served.engine.add(one)
    with Crossings([]):
        for _ in range(2):
            served.engine.step()
    return served


def logged_step(engine: Engine, device: LoggingDevice) -> list[str]:
    device.log.clear()
    with Crossings(device.log):
        outputs = engine.step()
    assert [output.error for output in outputs] == [None] * 3
    return list(device.log)


DECODE_STEP = [
    "usual mark {usual}",
    "stream 1 after usual mark {usual}",
    "use stream 1",
    "to device",
    "replay",
    "to host",
    "stream 1 mark {n}",
    "host after stream 1 mark {n}",
    "leave stream 1",
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ways", [{}, {"logprobs": 2}, {"temperature": 0.7, "seed": 3}], ids=str)
def test_a_decode_step_is_one_copy_there_one_replay_one_copy_back_and_one_wait(
    real: RealEngine, mode: str, ways: dict[str, Any]
) -> None:
    device = LoggingDevice("meta")
    served = serve(real, device, mode=mode, **ways)
    for n in range(3, 6):
        expected = [each.format(n=n, usual=n) for each in DECODE_STEP]
        assert logged_step(served.engine, device) == expected


def test_a_prompts_step_is_one_copy_there_and_one_back(real: RealEngine) -> None:
    device = LoggingDevice("meta")
    served = device_engine(real, device, max_num_seqs=4)
    for n in range(3):
        served.engine.add(request(str(n), [9 + n, 5, 6], max_tokens=30))
    log = logged_step(served.engine, device)
    assert [each for each in log if each.startswith("to ")] == ["to device", "to host"]
    assert sum(each.startswith("host after") for each in log) == 1


def test_a_step_whose_rows_nobody_reads_is_waited_for(real: RealEngine) -> None:
    device = LoggingDevice("meta")
    served = device_engine(real, device, max_num_seqs=4, max_num_batched_tokens=2)
    served.engine.add(request("0", [9, 5, 6, 7, 8], max_tokens=30))
    device.log.clear()
    with Crossings(device.log):
        served.engine.step()
    assert "to host" not in device.log
    assert device.log[-3:] == [
        "stream 1 mark 1",
        "host after stream 1 mark 1",
        "leave stream 1",
    ]


def test_a_step_that_fails_is_waited_for_before_another_may_be_written(
    real: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = LoggingDevice("meta")
    served = serve(real, device, mode="base")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(served.runner, "_read", fail)
    device.log.clear()
    with Crossings(device.log):
        served.engine.step()
    left = device.log.index("leave stream 1")
    assert device.log[left + 1 : left + 3] == ["stream 1 mark 4", "host after stream 1 mark 4"]


def test_the_device_and_not_the_host_waits_for_an_adapter_once(real: RealEngine) -> None:
    device = LoggingDevice("meta")
    digest = sorted(real.adapters)[0]
    uploaded = LoggingEvent(device.log, "the upload")
    resident = replace(real.resident(digest), arrival=Arrival(uploaded))
    real._residents[digest] = resident
    served = serve(real, device, mode="base")
    composition = Composition.linear([(digest, 1.0)])
    served.engine.add(request("late", [7, 8], composition, max_tokens=9, ignore_eos=True))
    device.log.clear()
    with Crossings(device.log):
        for _ in range(4):
            served.engine.step()
    assert [each for each in device.log if "the upload" in each] == ["stream 1 after the upload"]
    assert device.log[2:5] == ["stream 1 after the upload", "use stream 1", "to device"]
    real._residents.clear()


def test_a_drafted_step_waits_once(real: RealEngine) -> None:
    device = LoggingDevice("meta")
    served = device_engine(real, device, max_num_seqs=4, num_draft_tokens=3)
    served.engine.add(request("0", [LIKELIEST] * 9, max_tokens=30, ignore_eos=True))
    with Crossings([]):
        for _ in range(3):
            served.engine.step()
    device.log.clear()
    with Crossings(device.log):
        served.engine.step()
    assert sum(each.startswith("host after") for each in device.log) == 1


# The test's own means

REFUSALS = (RuntimeError, NotImplementedError, TypeError)

SYNCHRONIZING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "bool": lambda x: bool(x[0] > 0),
    "unique": lambda x: x.unique(),
    "float": lambda x: float(x.sum()),
}


@pytest.mark.parametrize("name", SYNCHRONIZING)
def test_a_number_that_is_asked_of_the_device_fails_a_test(name: str) -> None:
    with pytest.raises(REFUSALS), Crossings([]):
        SYNCHRONIZING[name](torch.zeros(2, 8, device="meta"))


def test_a_hidden_copy_is_seen() -> None:
    log: list[str] = []
    with Crossings(log):
        torch.tensor([1.0, 2.0], device="cpu").to("meta")
        torch.zeros(2, device="meta").copy_(torch.ones(2))
        torch.ones(2).copy_(torch.zeros(2, device="meta"))
    assert log == ["to device", "to device", "to host"]

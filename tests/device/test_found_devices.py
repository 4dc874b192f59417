"""What keeps a GPU from being used is said at the start, with what would help."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from recorded_kernels import LoggingDevice

from server.adapters.delta import make_resident
from server.choices import choose_device, choose_dtype, choose_kernels
from server.device import found
from server.device.errors import DeviceUnusable
from server.device.found import ALLOCATOR, FORMER_ALLOCATOR, find_gpu
from server.device.host import HostDevice
from server.device.interface import Device
from server.kernels.reference import ReferenceKernels
from server.settings import Settings, SettingsConflict

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/"
)


@dataclass
class FakeCuda:
    """`torch.cuda` as it is on some machine."""

    error: Exception | None = None
    count: int = 1
    capability: tuple[int, int] = (8, 6)

    def init(self) -> None:
        if self.error is not None:
            raise self.error

    def device_count(self) -> int:
        return self.count

    def current_device(self) -> int:
        return 0

    def get_device_name(self, device: int) -> str:
        return "NVIDIA T4"

    def get_device_capability(self, device: int) -> tuple[int, int]:
        return self.capability


REFUSED = {
    "a build without CUDA": (FakeCuda(), None, "build without CUDA"),
    "no driver": (
        FakeCuda(RuntimeError("Found no NVIDIA driver on your system. Please check that ...")),
        "13.0",
        "Found no NVIDIA driver on your system;",
    ),
    "an old driver": (FakeCuda(RuntimeError(OLD_DRIVER)), "13.0", "too old (found version 11040);"),
    "none visible": (FakeCuda(count=0), "13.0", "torch sees no GPU"),
    "an old GPU": (FakeCuda(capability=(7, 5)), "13.0", "NVIDIA T4 has compute capability 7.5"),
    "nothing said": (FakeCuda(RuntimeError("")), "13.0", "CUDA 13.0 does not start"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_gpu_that_cannot_be_used_is_refused_with_a_remedy(case: str) -> None:
    cuda, build, said = REFUSED[case]
    with pytest.raises(DeviceUnusable) as caught:
        find_gpu(cuda, build, {})
    assert said in str(caught.value)
    assert "--device cpu" in caught.value.remedy


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_a_gpu_that_can_be_used_is_found(capability: tuple[int, int]) -> None:
    device = find_gpu(FakeCuda(capability=capability), "13.0", {})
    assert (device.name, device.place) == ("NVIDIA T4", torch.device("cuda", 0))


def unusable() -> Device:
    raise DeviceUnusable("CUDA is on strike", "wait")


def named(own: object) -> str:
    return type(own).__name__ if isinstance(own, HostDevice | LoggingDevice) else str(own)


def settings(**fields: Any) -> Settings:
    return Settings(_cli_parse_args=[], **fields)


def test_a_gpu_that_was_asked_for_and_cannot_be_used_stops_the_start() -> None:
    with pytest.raises(SettingsConflict, match="INTARSIA_DEVICE=cuda: CUDA is on strike; wait"):
        choose_device(settings(device="cuda"), print, unusable)


def test_a_gpu_that_nobody_asked_for_is_done_without_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    said: list[str] = []
    assert isinstance(choose_device(settings(), said.append, unusable), HostDevice)
    assert said == ["computing on the CPU: CUDA is on strike"]


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_cpu_is_chosen_without_a_word_where_torch_has_no_cuda(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    said: list[str] = []
    assert isinstance(choose_device(settings(device=device), said.append, unusable), HostDevice)
    assert said == []


def test_a_gpu_without_triton_is_refused_unless_plain_torch_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(found, "find_spec", lambda name: None)
    with pytest.raises(SettingsConflict, match="Triton is not installed"):
        choose_device(settings(device="cuda"), print, LoggingDevice)
    plain = settings(device="cuda", kernels="reference")
    assert choose_device(plain, print, LoggingDevice).is_gpu


@pytest.mark.parametrize(
    ("fields", "device", "dtype", "name"),
    [
        ({}, HostDevice(), torch.float32, "cpu"),
        ({"kernels": "reference"}, HostDevice(), torch.float32, "reference"),
        ({"dtype": "bfloat16"}, HostDevice(), torch.bfloat16, "reference"),
        ({"quantization": "int8"}, HostDevice(), torch.float32, "cpu"),
        ({}, LoggingDevice(), torch.bfloat16, "gpu"),
        ({"dtype": "float32", "kernels": "gpu"}, LoggingDevice(), torch.float32, "gpu"),
        ({"kernels": "reference"}, LoggingDevice(), torch.bfloat16, "reference"),
    ],
    ids=named,
)
def test_kernels_follow_from_device_and_dtype(
    fields: dict[str, Any], device: Device, dtype: torch.dtype, name: str
) -> None:
    chosen = settings(**fields)
    assert choose_dtype(chosen, device) == dtype
    kernels, make = choose_kernels(chosen, device, dtype)
    assert kernels.name.startswith(name)
    assert (make is not make_resident) == (name == "gpu")
    assert (type(kernels) is ReferenceKernels) == (name == "reference")


@pytest.mark.parametrize(
    ("fields", "device", "key"),
    [
        ({"kernels": "gpu"}, HostDevice(), "kernels"),
        ({"kernels": "cpu"}, LoggingDevice(), "kernels"),
        ({"kernels": "cpu", "dtype": "bfloat16"}, HostDevice(), "kernels"),
        ({"quantization": "int8"}, LoggingDevice(), "quantization"),
        ({"quantization": "int8", "kernels": "reference"}, HostDevice(), "quantization"),
        ({"page_size": 8}, LoggingDevice(), "page_size"),
        ({"page_size": 48}, LoggingDevice(), "page_size"),
    ],
    ids=named,
)
def test_kernels_that_do_not_fit_are_refused_by_their_setting(
    fields: dict[str, Any], device: Device, key: str
) -> None:
    chosen = settings(**fields)
    with pytest.raises(SettingsConflict) as caught:
        choose_kernels(chosen, device, choose_dtype(chosen, device))
    assert caught.value.key == key


@pytest.mark.parametrize("own", [{}, {ALLOCATOR: "x:1"}, {FORMER_ALLOCATOR: "x:1"}], ids=named)
def test_memory_is_taken_page_by_page_unless_an_operator_says_otherwise(
    own: dict[str, str],
) -> None:
    environment, at_start = dict(own), dict[str, str]()

    class Starting(FakeCuda):
        def init(self) -> None:
            at_start.update(environment)

    find_gpu(Starting(), "13.0", environment)
    assert at_start == (own or {ALLOCATOR: "expandable_segments:True"})

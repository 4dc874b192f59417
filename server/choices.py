"""What computes, as the settings say: the device, the numbers' dtype, the kernels."""

from collections.abc import Callable

import torch

from server.adapters.arriving import uploaded
from server.adapters.delta import MakeResident, make_resident
from server.device.errors import DeviceUnusable
from server.device.found import find_gpu, require_triton
from server.device.host import HostDevice
from server.device.interface import Device
from server.device.uploads import Uploads
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels
from server.settings import Settings, SettingsConflict
from server.storage import Report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LEAST_PAGE = 16  # tokens that a tensor core takes at a time

FindGpu = Callable[[], Device]  # raises DeviceUnusable


def choose_device(settings: Settings, report: Report, find: FindGpu = find_gpu) -> Device:
    """The GPU that `find` finds, or the CPU. Raises SettingsConflict.

    Where nobody asked for either, a GPU that is there and cannot be used is reported.
    """
    if settings.device == "cpu" or (settings.device == "auto" and torch.version.cuda is None):
        return HostDevice()
    try:
        device = find()
        if settings.kernels in ("auto", "gpu"):
            require_triton()
    except DeviceUnusable as error:
        if settings.device == "cuda":
            raise SettingsConflict("device", "cuda", str(error)) from error
        report(f"computing on the CPU: {error.reason}")
        return HostDevice()
    return device


def choose_dtype(settings: Settings, device: Device) -> torch.dtype:
    """As told; else bf16 on a GPU, fp32 on a CPU."""
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    return torch.bfloat16 if device.is_gpu else torch.float32


def choose_kernels(
    settings: Settings, device: Device, dtype: torch.dtype
) -> tuple[Kernels, MakeResident]:
    """What computes, and what lays adapters out for it. Raises SettingsConflict."""
    own = _own_kernels(device, dtype)
    if settings.kernels not in ("auto", "reference", own):
        where = {"cpu": "fp32 on a CPU", "gpu": "on a GPU"}[settings.kernels]
        reason = f"they compute {where}, not {dtype} on {device.place}"
        raise SettingsConflict("kernels", settings.kernels, reason)
    chosen = own if settings.kernels == "auto" else settings.kernels
    if settings.quantization == "int8" and chosen != "cpu":
        reason = f"the cpu kernels have it, for fp32; not the {chosen} ones, {dtype}"
        raise SettingsConflict("quantization", "int8", f"{reason} on {device.place}")
    if chosen == "gpu":
        _refuse_page_size(settings)
        return _gpu_kernels(device)
    if chosen == "reference":
        return ReferenceKernels(device.place), make_resident
    return (Int8CpuKernels() if settings.quantization == "int8" else CpuKernels()), make_resident


def _own_kernels(device: Device, dtype: torch.dtype) -> str:
    """The fastest."""
    if device.is_gpu:
        return "gpu"
    return "cpu" if dtype == torch.float32 else "reference"


def _refuse_page_size(settings: Settings) -> None:
    size = settings.page_size
    if size < LEAST_PAGE or size & (size - 1):
        reason = f"the gpu kernels need a power of two, {LEAST_PAGE} or more"
        raise SettingsConflict("page_size", size, reason)


def _gpu_kernels(device: Device) -> tuple[Kernels, MakeResident]:
    from server.kernels.gpu.kernels import GpuKernels  # needs Triton, which may be missing

    uploads = Uploads(device)
    placing = GpuKernels(device.place, uploads.place)
    return GpuKernels(device.place), uploaded(uploads, placing)

"""Which device there is to compute on, or why there is none, before anything is loaded.

torch says why CUDA does not work only when it is made to start; `is_available` just says no.
"""

import os
from collections.abc import MutableMapping
from importlib.util import find_spec
from typing import Protocol

import torch

from server.device.cuda import CudaDevice
from server.device.errors import DeviceUnusable

OLDEST = (8, 0)  # compute capability that the kernels are compiled for: bf16 and its products
ALLOCATOR, BY_PAGES = "PYTORCH_ALLOC_CONF", "expandable_segments:True"  # read when CUDA starts
FORMER_ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"  # read before it, still
ON_CPU = "serve on a CPU with --device cpu"
ASK_DRIVER = f"see what nvidia-smi says, or {ON_CPU}"


class Cuda(Protocol):
    """What is asked of `torch.cuda`."""

    def init(self) -> None: ...
    def device_count(self) -> int: ...
    def current_device(self) -> int: ...
    def get_device_name(self, device: int) -> str: ...
    def get_device_capability(self, device: int) -> tuple[int, int]: ...


def find_gpu(
    cuda: Cuda = torch.cuda,
    build: str | None = torch.version.cuda,
    environment: MutableMapping[str, str] = os.environ,
) -> CudaDevice:
    """The current GPU, of a torch made for the CUDA version `build`. Raises DeviceUnusable.

    Its allocator is told, unless `environment` has an operator's own settings, to take memory page
    by page: adapters of all sizes then lie one behind another and take their bytes, as they are
    counted. In blocks of 20 MiB, of two that are 7 MiB large each, 6 would be lost.
    """
    if build is None:
        reason = f"this torch ({torch.__version__}) is a build without CUDA"
        raise DeviceUnusable(reason, f"install one with CUDA, or {ON_CPU}")
    if FORMER_ALLOCATOR not in environment:
        environment.setdefault(ALLOCATOR, BY_PAGES)
    try:
        cuda.init()
    except (AssertionError, RuntimeError) as error:
        raise DeviceUnusable(_said(error, build), ASK_DRIVER) from error
    if cuda.device_count() == 0:
        raise DeviceUnusable("torch sees no GPU", ASK_DRIVER)
    index = cuda.current_device()
    name, capability = cuda.get_device_name(index), cuda.get_device_capability(index)
    if capability < OLDEST:
        needed, own = (".".join(map(str, version)) for version in (OLDEST, capability))
        reason = f"{name} has compute capability {own}, and the kernels need {needed} or later"
        raise DeviceUnusable(reason, ON_CPU)
    return CudaDevice(name, torch.device("cuda", index))


def require_triton() -> None:
    """Raises DeviceUnusable where the compiler of the GPU's kernels is not installed."""
    if find_spec("triton") is None:
        raise DeviceUnusable("Triton is not installed", "install intarsia[gpu], or " + ON_CPU)


def _said(error: Exception, build: str) -> str:
    """What torch says, of which the first sentence is the cause."""
    said = str(error).strip() or type(error).__name__
    cause = said.splitlines()[0].split(". ")[0].removesuffix(".")
    return f"CUDA {build} does not start: {cause}"

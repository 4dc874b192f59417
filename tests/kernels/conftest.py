"""Every implementation of the kernels that runs on this machine."""

import pytest

from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels


@pytest.fixture(scope="session", params=["reference", "cpu", "gpu"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """In fp32, each of them; those of a GPU interpreted."""
    match request.param:
        case "cpu":
            return CpuKernels()
        case "gpu":
            pytest.importorskip("triton", reason="kernels of a GPU are Triton's")
            from server.kernels.gpu.kernels import GpuKernels

            return GpuKernels("cpu")
    return ReferenceKernels("cpu")

"""Every implementation of the kernels that runs on this machine."""

import pytest

from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels


@pytest.fixture(scope="session", params=["reference", "cpu"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """In fp32, each of them."""
    return CpuKernels() if request.param == "cpu" else ReferenceKernels("cpu")

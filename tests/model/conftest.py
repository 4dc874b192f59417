"""Tiny checkpoints, written once per run, and the models that are made of them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_checkpoint
from transformers import AutoModelForCausalLM

from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels
from server.model.checkpoint import open_checkpoint
from server.model.load import load_model
from server.model.phi3 import Phi3


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Variation -> directory. Not to be written to: tests share it."""
    return cache(lambda variation: make_tiny_checkpoint(tmp_path_factory.mktemp("t"), variation))


@pytest.fixture(scope="session", params=["reference", "cpu"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """In fp32, each of them."""
    return CpuKernels() if request.param == "cpu" else ReferenceKernels("cpu")


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Callable[[str], Path], kernels: Kernels) -> Callable[[str], Phi3]:
    """Variation -> the server's model, in fp32."""

    def load(variation: str) -> Phi3:
        checkpoint = open_checkpoint(str(tiny_checkpoint(variation)))
        return load_model(checkpoint, torch.float32, "cpu", kernels)

    return cache(load)


@pytest.fixture(scope="session")
def transformers_model(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """Variation -> transformers' model, in fp32."""

    def load(variation: str) -> Any:
        path = tiny_checkpoint(variation)
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    return cache(load)

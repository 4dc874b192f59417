"""A base of one byte to a weight: near transformers' logits, and not held in fp32 beside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paged_runs import PagedRun
from tiny_models import VARIATIONS, VOCAB_SIZE

from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.model.checkpoint import open_checkpoint
from server.model.load import load_model
from server.model.phi3 import Phi3

TOLERANCE = 0.05  # root mean square, of that of the logits
BYTES_PER_NUMBER = 1.125 * 1.35  # with the scales; rows of these small weights fill up tiles
LENGTH = 40


@pytest.fixture(scope="module")
def quantized(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], Phi3]:
    def load(variation: str) -> Phi3:
        checkpoint = open_checkpoint(str(tiny_checkpoint(variation)))
        return load_model(checkpoint, torch.float32, "cpu", Int8CpuKernels())

    return load


@pytest.mark.parametrize("variation", VARIATIONS)
def test_logits_are_near_those_of_transformers(
    quantized: Callable[[str], Phi3], transformers_model: Callable[[str], Any], variation: str
) -> None:
    token_ids = torch.randint(VOCAB_SIZE, (LENGTH,), generator=torch.Generator().manual_seed(0))
    run = PagedRun(quantized(variation))
    ours = run.step([(run.add(token_ids), LENGTH)])[0]
    with torch.inference_mode():
        theirs = transformers_model(variation)(token_ids[None], use_cache=False).logits[0]
    error = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
    assert 0 < error <= TOLERANCE


@pytest.mark.parametrize("variation", ["phi3-mini", "phi4-mini", "llama"])
def test_linear_layers_hold_a_byte_for_a_weight_and_the_embedding_stays(
    quantized: Callable[[str], Phi3], variation: str
) -> None:
    model = quantized(variation)
    shapes = model.config.linear_shapes()
    for name, weight in model.weights.linears():
        numbers = shapes[name][0] * shapes[name][1]
        assert weight.dtype == torch.uint8
        assert weight.untyped_storage().nbytes() <= BYTES_PER_NUMBER * numbers
    assert model.weights.embed.dtype == torch.float32

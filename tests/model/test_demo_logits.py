"""The demo base computes what transformers computes with it."""

from pathlib import Path

import pytest
import torch
from paged_runs import PagedRun
from transformers import AutoModelForCausalLM

from server.kernels.interface import Kernels
from server.model.checkpoint import open_checkpoint
from server.model.load import load_model

TOLERANCE = 2e-5  # of the largest logit
PROMPT = "The quick brown fox jumps over the lazy dog. The capital of France is Paris, and "


@pytest.mark.demo
def test_demo_base_has_the_logits_of_transformers_in_prefill_and_decode(
    demo_base: Path, kernels: Kernels
) -> None:
    checkpoint = open_checkpoint(str(demo_base))
    model = load_model(checkpoint, torch.float32, "cpu", kernels)
    token_ids = torch.tensor(checkpoint.tokenizer.encode(PROMPT))
    run = PagedRun(model)
    sequence = run.add(token_ids)
    sizes = [10, *[1] * (len(token_ids) - 10)]
    logits = torch.cat([run.step([(sequence, size)])[0] for size in sizes])
    reference_model = AutoModelForCausalLM.from_pretrained(demo_base, dtype=torch.float32).eval()
    with torch.inference_mode():
        reference = reference_model(token_ids[None], use_cache=False).logits[0]
    assert (logits - reference).abs().max() <= TOLERANCE * reference.abs().max()

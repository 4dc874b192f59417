"""The forward pass gives transformers' logits, however the tokens are cut into steps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from paged_runs import PagedRun
from tiny_models import LONGROPE_BOUNDARY, SLIDING_WINDOW, VARIATIONS, VOCAB_SIZE
from torch import Tensor
from transformers import AutoModelForCausalLM

from server.kernels.reference import ReferenceKernels
from server.model.checkpoint import open_checkpoint
from server.model.load import load_model
from server.model.phi3 import Phi3

TOLERANCE = 2e-5  # of the largest logit
LENGTHS = (1, SLIDING_WINDOW + 1, LONGROPE_BOUNDARY, LONGROPE_BOUNDARY + 1, 60)

Models = Callable[[str], Phi3]
References = Callable[[str], Any]


def tokens(num_tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=torch.Generator().manual_seed(seed))


def reference_logits(model: Any, token_ids: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(token_ids[None], use_cache=False).logits[0]
    return logits


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


def cut(num_tokens: int, sizes: tuple[int, ...]) -> Iterator[int]:
    """`sizes` over and over, until they make up `num_tokens`."""
    done = 0
    while done < num_tokens:
        for size in sizes:
            if size := min(size, num_tokens - done):
                yield size
                done += size


@pytest.mark.parametrize("sizes", [(60,), (5, 1, 2, 9), (1,)], ids=["whole", "ragged", "decode"])
@pytest.mark.parametrize("num_tokens", LENGTHS)
@pytest.mark.parametrize("variation", VARIATIONS)
def test_logits_are_those_of_transformers_however_the_prompt_is_cut(
    tiny_model: Models,
    transformers_model: References,
    variation: str,
    num_tokens: int,
    sizes: tuple[int, ...],
) -> None:
    run = PagedRun(tiny_model(variation))
    sequence = run.add(tokens(num_tokens))
    chunks = [run.step([(sequence, size)])[0] for size in cut(num_tokens, sizes)]
    reference = reference_logits(transformers_model(variation), sequence.token_ids)
    assert_close(torch.cat(chunks), reference)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_sequences_of_one_step_do_not_see_each_other(
    tiny_model: Models, transformers_model: References, variation: str
) -> None:
    run = PagedRun(tiny_model(variation))
    sequences = [run.add(tokens(n, seed=n)) for n in LENGTHS]
    logits: list[list[Tensor]] = [[] for _ in sequences]
    sizes = {0: 1, 1: 5, 2: 1, 3: 7, 4: 20}
    while waiting := [i for i, s in enumerate(sequences) if s.done < len(s.token_ids)]:
        left = {i: len(sequences[i].token_ids) - sequences[i].done for i in waiting}
        step = run.step([(sequences[i], min(sizes[i], left[i])) for i in waiting])
        for i, own in zip(waiting, step, strict=True):
            logits[i].append(own)
    for sequence, chunks in zip(sequences, logits, strict=True):
        reference = reference_logits(transformers_model(variation), sequence.token_ids)
        assert_close(torch.cat(chunks), reference)


@pytest.mark.parametrize("variation", ["phi3.5-mini", "phi4-mini"])
def test_crossing_the_longrope_boundary_changes_the_logits_of_old_tokens(
    tiny_model: Models, variation: str
) -> None:
    """Else the tests above would not show that the regime is right."""
    shorter, longer = tokens(LONGROPE_BOUNDARY), tokens(LONGROPE_BOUNDARY + 1)
    run = PagedRun(tiny_model(variation))
    before = run.step([(run.add(shorter), len(shorter))])[0]
    after = run.step([(run.add(longer), len(longer))])[0]
    assert (after[:-1] - before).abs().max() > 0.1


def test_bf16_logits_are_as_near_to_fp32_as_those_of_transformers(
    tiny_checkpoint: Callable[[str], Path], transformers_model: References
) -> None:
    path, token_ids = tiny_checkpoint("phi3-medium"), tokens(40)
    model = load_model(open_checkpoint(str(path)), torch.bfloat16, "cpu", ReferenceKernels("cpu"))
    run = PagedRun(model, torch.bfloat16)
    ours = run.step([(run.add(token_ids), 40)])[0]
    theirs = reference_logits(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval(), token_ids
    )
    truth = reference_logits(transformers_model("phi3-medium"), token_ids)
    assert ours.dtype == torch.float32
    assert (ours - truth).abs().mean() <= 1.2 * (theirs - truth).abs().mean()

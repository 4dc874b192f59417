"""Checkpoints configured as Microsoft publishes them: transformers' logits and greedy tokens."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import RealEngine, request, run_to_end
from paged_runs import PagedRun
from published_models import (
    ORIGINAL_LENGTH,
    PUBLISHED,
    end_tokens,
    make_published_checkpoint,
    shrunk,
)
from tiny_models import VOCAB_SIZE
from torch import Tensor
from transformers import AutoModelForCausalLM, Phi3ForCausalLM

from server.model.checkpoint import open_checkpoint

TOLERANCE = 2e-5  # of the largest logit
NUM_GENERATED = 32

Engines = Callable[[str], RealEngine]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Published name -> the engine of its checkpoint, in fp32."""

    def make(name: str) -> RealEngine:
        directory: Path = make_published_checkpoint(tmp_path_factory.mktemp("published"), name)
        return RealEngine(open_checkpoint(str(directory)))

    return cache(make)


def reference_of(real: RealEngine) -> Any:
    path = real.checkpoint.directory
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    assert isinstance(model, Phi3ForCausalLM)
    return model


def logits_of(model: Any, token_ids: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(token_ids[None], use_cache=False).logits[0]
    return logits


def prompt(num_tokens: int) -> list[int]:
    return [(7 * at * at + 3 * at) % VOCAB_SIZE for at in range(num_tokens)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_field_that_matters_is_read(published: Engines, name: str) -> None:
    config, source = published(name).checkpoint.config, shrunk(name)
    longrope = source["rope_scaling"] is not None
    assert config.sliding_window == source["sliding_window"]
    assert (config.num_heads, config.num_kv_heads) == (
        source["num_attention_heads"],
        source["num_key_value_heads"],
    )
    assert config.tie_word_embeddings == source["tie_word_embeddings"]
    assert config.max_position_embeddings == source["max_position_embeddings"]
    assert config.rope.original_max_positions == (ORIGINAL_LENGTH if longrope else None)
    assert config.rope.rotary_dim == 16 * source.get("partial_rotary_factor", 1.0)
    assert published(name).checkpoint.eos_token_ids == set(end_tokens(name))


@pytest.mark.parametrize("num_tokens", [1, 33, ORIGINAL_LENGTH, ORIGINAL_LENGTH + 1, 90])
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_of_a_published_configuration_are_those_of_transformers(
    published: Engines, name: str, num_tokens: int
) -> None:
    real = published(name)
    run, token_ids = PagedRun(real.model), torch.tensor(prompt(num_tokens))
    ours = run.step([(run.add(token_ids), num_tokens)])[0]
    reference = logits_of(reference_of(real), token_ids)
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


@pytest.mark.parametrize("num_prompt", [3, 45])
@pytest.mark.parametrize("name", PUBLISHED)
def test_greedy_tokens_of_a_published_configuration_are_those_of_transformers(
    published: Engines, name: str, num_prompt: int
) -> None:
    """32 of them; those of longrope cross its boundary after the longer prompt."""
    real = published(name)
    engine, _ = real.engine()
    wanted = request("r", prompt(num_prompt), max_tokens=NUM_GENERATED, ignore_eos=True)
    made = run_to_end(engine, [wanted]).tokens("r")
    model, tokens = reference_of(real), prompt(num_prompt)
    for _ in range(NUM_GENERATED):
        tokens.append(int(logits_of(model, torch.tensor(tokens))[-1].argmax()))
    assert made == tokens[num_prompt:]

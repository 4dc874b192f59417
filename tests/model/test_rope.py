"""Positions turn vectors exactly as in transformers; the regime follows the sequence's length."""

from typing import Any

import pytest
import torch
from tiny_models import LONGROPE_BOUNDARY, VARIATIONS
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from server.model.errors import CheckpointUnsupported
from server.model.rope import LONG, SHORT, rope_config

ROTARY_EMBEDDINGS: dict[str, Any] = {
    "phi3": Phi3RotaryEmbedding,
    "llama": LlamaRotaryEmbedding,
    "mistral": MistralRotaryEmbedding,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, LONGROPE_BOUNDARY, LONGROPE_BOUNDARY + 1, 100])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_cos_and_sin_are_those_of_transformers_to_the_bit(
    variation: str, num_tokens: int, dtype: torch.dtype
) -> None:
    config = VARIATIONS[variation]()
    positions = torch.arange(num_tokens)
    rotary = ROTARY_EMBEDDINGS[config.model_type](config)
    cos, sin = rotary(torch.zeros(1, dtype=dtype), positions[None])
    rope = rope_config(config)
    ours = rope.on("cpu").cos_sin(
        positions, torch.full((num_tokens,), rope.regime(num_tokens)), dtype
    )
    assert torch.equal(ours[0], cos[0])
    assert torch.equal(ours[1], sin[0])


def test_regime_is_short_up_to_and_including_the_original_length() -> None:
    rope = rope_config(VARIATIONS["phi3.5-mini"]())
    lengths = (0, 1, LONGROPE_BOUNDARY, LONGROPE_BOUNDARY + 1, 10 * LONGROPE_BOUNDARY)
    assert [rope.regime(length) for length in lengths] == [SHORT, SHORT, SHORT, LONG, LONG]


def test_tokens_of_both_regimes_share_a_step() -> None:
    rope = rope_config(VARIATIONS["phi4-mini"]())
    positions = torch.tensor([3, 3])
    mixed, _ = rope.on("cpu").cos_sin(positions, torch.tensor([SHORT, LONG]), torch.float32)
    for row, regime in enumerate((SHORT, LONG)):
        alone, _ = rope.on("cpu").cos_sin(positions[:1], torch.tensor([regime]), torch.float32)
        assert torch.equal(mixed[row], alone[0])
    assert not torch.equal(mixed[0], mixed[1])


@pytest.mark.parametrize(
    ("parameters", "feature"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "rope_type"),
        ({"rope_type": "spiral"}, "rope_type"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_unsupported_rope_is_refused_by_name(parameters: dict[str, Any], feature: str) -> None:
    config = LlamaConfig(rope_parameters={"rope_theta": 10000.0, **parameters})
    with pytest.raises(CheckpointUnsupported) as refused:
        rope_config(config)
    assert (refused.value.feature, refused.value.value) == (feature, parameters.get(feature))

"""Configurations are read as transformers means them; what is not computed is refused by name."""

from typing import Any

import pytest
from tiny_models import SLIDING_WINDOW, VARIATIONS
from transformers import GPT2Config, LlamaConfig, Phi3Config

from server.model.config import from_transformers
from server.model.errors import CheckpointUnsupported

PHI3_MINI_4K: dict[str, Any] = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32064,
    "sliding_window": 2047,
}


def test_linear_shapes_of_phi3_mini() -> None:
    shapes = from_transformers(Phi3Config(**PHI3_MINI_4K)).linear_shapes()
    assert len(shapes) == 4 * 32 + 1
    assert shapes["model.layers.31.self_attn.qkv_proj"] == (9216, 3072)
    assert shapes["model.layers.0.self_attn.o_proj"] == (3072, 3072)
    assert shapes["model.layers.0.mlp.gate_up_proj"] == (16384, 3072)
    assert shapes["model.layers.0.mlp.down_proj"] == (3072, 8192)
    assert shapes["lm_head"] == (32064, 3072)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_split_parts_fill_the_fused_rows_without_gap_or_overlap(variation: str) -> None:
    config = from_transformers(VARIATIONS[variation]())
    for fused in ("self_attn.qkv_proj", "mlp.gate_up_proj"):
        rows = [
            row
            for suffix, first, num_rows in config.split_parts().values()
            if suffix == fused
            for row in range(first, first + num_rows)
        ]
        assert rows == list(range(config.linear_shapes()[f"model.layers.0.{fused}"][0]))


def test_head_size_need_not_follow_from_the_hidden_size() -> None:
    config = from_transformers(LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=32))
    assert config.head_dim == 32
    assert config.linear_shapes()["model.layers.0.self_attn.o_proj"] == (64, 128)


def test_sliding_window_counts_only_where_transformers_applies_it() -> None:
    windows = {name: from_transformers(make()).sliding_window for name, make in VARIATIONS.items()}
    assert (windows["phi3-mini"], windows["mistral"]) == (SLIDING_WINDOW, SLIDING_WINDOW)
    assert from_transformers(LlamaConfig(sliding_window=9)).sliding_window is None


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        (GPT2Config(), "model_type"),
        (Phi3Config(hidden_act="gelu"), "hidden_act"),
        (LlamaConfig(attention_bias=True), "attention_bias"),
        (LlamaConfig(mlp_bias=True), "mlp_bias"),
        (Phi3Config(lm_head_bias=True), "lm_head_bias"),
        (LlamaConfig(quantization_config={"quant_method": "awq"}), "quantization_config"),
    ],
)
def test_unsupported_feature_is_refused_by_name(config: Any, feature: str) -> None:
    with pytest.raises(CheckpointUnsupported, match=feature) as refused:
        from_transformers(config)
    assert refused.value.feature == feature

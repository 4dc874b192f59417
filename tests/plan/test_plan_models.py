"""Sizes of models: the table is right by transformers' own count, files are read or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from server.model.config import ModelConfig, from_transformers
from server.plan.errors import ConfigUnusable, NameUnknown
from server.plan.models import MODELS, ModelShape, find_model, read_shape

PUBLISHED = {  # parameters, as the models' cards have them
    "phi-3-mini-4k": 3.82e9,
    "phi-3-medium-4k": 13.96e9,
    "phi-3.5-mini": 3.82e9,
    "phi-4": 14.66e9,
    "phi-4-mini": 3.84e9,
    "demo": 0.1345e9,
}


def transformers_config(shape: ModelShape) -> Phi3Config:
    return Phi3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        original_max_position_embeddings=shape.positions,
        sliding_window=shape.window,
        tie_word_embeddings=shape.tied,
        pad_token_id=None,
    )


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_that_transformers_has(name: str) -> None:
    with torch.device("meta"):
        model = Phi3ForCausalLM(transformers_config(MODELS[name]))
    assert MODELS[name].parameters == sum(p.numel() for p in model.parameters())
    assert MODELS[name].parameters == pytest.approx(PUBLISHED[name], rel=0.002)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_those_that_the_server_computes(name: str) -> None:
    served: ModelConfig = from_transformers(transformers_config(MODELS[name]))
    prefix = "model.layers.0."
    shapes = {n: s for n, s in served.linear_shapes().items() if n.startswith(prefix)}
    planned = {n: (m.rows, m.columns) for n, m in MODELS[name].linears.items()}
    assert {n.rpartition(".")[2]: s for n, s in shapes.items()} == planned
    assert (served.kv_size, served.num_layers) == (MODELS[name].kv_size, MODELS[name].layers)


@pytest.mark.parametrize("name", MODELS)
def test_a_config_that_transformers_wrote_reads_as_its_model(name: str, tmp_path: Path) -> None:
    transformers_config(MODELS[name]).save_pretrained(tmp_path)
    assert find_model(str(tmp_path)) == MODELS[name]
    assert find_model(str(tmp_path / "config.json")) == MODELS[name]


GOOD: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


def test_llamas_window_and_missing_heads_follow_its_own_code(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOOD | {"sliding_window": 4}))
    shape = read_shape(path)
    assert (shape.kv_heads, shape.head_dim, shape.window, shape.tied) == (4, 2, None, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "no JSON object"),
        (json.dumps(GOOD | {"model_type": "gpt2"}), "model_type 'gpt2' is not served"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "hidden_size"}), "hidden_size"),
        (json.dumps(GOOD | {"vocab_size": "many"}), "vocab_size: 'many'"),
        (json.dumps(GOOD | {"num_hidden_layers": 0}), "num_hidden_layers: 0"),
    ],
)
def test_unusable_configs_are_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigUnusable, match=reason.replace("[", r"\[")) as caught:
        find_model(str(path))
    assert caught.value.path == path


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnusable, match="No such file"):
        find_model(str(tmp_path))


def test_an_unknown_model_is_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(NameUnknown) as caught:
        find_model("phi-5")
    assert caught.value.known == tuple(MODELS)

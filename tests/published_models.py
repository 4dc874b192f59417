"""Configurations as Microsoft publishes them, with every field of theirs, shrunk in numbers alone.

Heads, key heads, dtype, ties and the form of `rope_scaling` stay. Widths follow from heads of 16,
lengths are divided by 64, ids above 255 keep their distance from the vocabulary's end, and the
published factors of longrope, one for each rotary pair, give way to as many made-up ones.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCAB_SIZE, make_tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

HEAD_DIM = 16
SHRUNK_LENGTHS = 64  # times shorter
ORIGINAL_LENGTH = 4096 // SHRUNK_LENGTHS  # up to which longrope is short
LENGTHS = ("max_position_embeddings", "original_max_position_embeddings", "sliding_window")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")

COMMON: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "phi3",
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32064,
}
LONGROPE = {"long_factor": [], "short_factor": [], "type": "longrope"}  # factors follow below

PUBLISHED: dict[str, dict[str, Any]] = {
    "Phi-3-mini-4k-instruct": {
        **COMMON,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "sliding_window": 2047,
    },
    "Phi-3-medium-4k-instruct": {
        **COMMON,
        "max_position_embeddings": 4096,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "sliding_window": 2047,
    },
    "Phi-3.5-mini-instruct": {
        **COMMON,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rope_scaling": LONGROPE,
        "sliding_window": 262144,
    },
    "Phi-4-mini-instruct": {
        **COMMON,
        "bos_token_id": 199999,
        "eos_token_id": 199999,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "rope_scaling": LONGROPE,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "vocab_size": 200064,
    },
    "phi-4": {
        **COMMON,
        "bos_token_id": 100257,
        "eos_token_id": 100265,
        "max_position_embeddings": 16384,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "original_max_position_embeddings": 16384,
        "pad_token_id": 100349,
        "rope_theta": 250000,
        "sliding_window": None,
        "vocab_size": 100352,
    },
}
END_TOKENS = {  # of generation_config.json
    "Phi-3-mini-4k-instruct": [32000, 32001, 32007],
    "Phi-3-medium-4k-instruct": [32000, 32001, 32007],
    "Phi-3.5-mini-instruct": [32007, 32001, 32000],
    "Phi-4-mini-instruct": [200020, 199999],
    "phi-4": [100265],
}


def end_tokens(name: str) -> list[int]:
    """What ends a text of the shrunk checkpoint."""
    return [_token(token, PUBLISHED[name]["vocab_size"]) for token in END_TOKENS[name]]


def shrunk(name: str) -> dict[str, Any]:
    """The content of a small config.json, of the same fields."""
    published = PUBLISHED[name]
    heads = published["num_attention_heads"]
    sizes = {
        "hidden_size": heads * HEAD_DIM,
        "initializer_range": 0.1,  # logits of narrow layers that differ clearly
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": VOCAB_SIZE,
    }
    lengths = {key: published[key] and published[key] // SHRUNK_LENGTHS for key in LENGTHS}
    tokens = {key: _token(published[key], published["vocab_size"]) for key in TOKENS}
    return {**published, **sizes, **lengths, **tokens, "rope_scaling": _rope_scaling(published)}


def make_published_checkpoint(directory: Path, name: str) -> Path:
    """Write the shrunk checkpoint into `directory`: bf16 in shards, config.json in its old form."""
    config = shrunk(name)
    (directory / "config.json").write_text(json.dumps(config))
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="300KB")
    make_tiny_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))  # not as it is written today
    (directory / "generation_config.json").write_text(
        json.dumps({"eos_token_id": end_tokens(name)})
    )
    return directory


def _token(token: int, vocab_size: int) -> int:
    return token if token < 256 else VOCAB_SIZE - (vocab_size - token)


def _rope_scaling(published: dict[str, Any]) -> dict[str, Any] | None:
    if published["rope_scaling"] is None:
        return None
    pairs = int(HEAD_DIM * published.get("partial_rotary_factor", 1.0)) // 2
    return {
        "long_factor": [1.0 + 0.75 * pair for pair in range(pairs)],
        "short_factor": [1.0 + 0.05 * pair for pair in range(pairs)],
        "type": "longrope",
    }

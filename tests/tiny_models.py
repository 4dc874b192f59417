"""Tiny random checkpoints in every variation that the server reads, with a tiny tokenizer.

Written by transformers itself, so that a checkpoint is what a real one is, only small.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

VOCAB_SIZE = 384
SEED = 20
LONGROPE_BOUNDARY = 24  # original_max_position_embeddings of the longrope variations
SLIDING_WINDOW = 11
END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|end|>"
SPECIAL_TOKENS = [END_OF_TEXT, END_OF_TURN, "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content']"
    " + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def make_tiny_checkpoint(directory: Path, variation: str = "phi3-mini") -> Path:
    """Write the checkpoint `variation` (a key of VARIATIONS) into `directory`, and return it.

    The weights depend on the variation only. Their sd of 0.1 makes logits that differ clearly;
    norm weights, which transformers would set to 1, are random too.
    """
    torch.manual_seed(SEED)
    config = VARIATIONS[variation]()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    max_shard_size = "100KB" if variation == "sharded" else "1GB"
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    make_tiny_tokenizer().save_pretrained(directory)
    return directory


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template, of at most VOCAB_SIZE tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["setting small pieces into a solid surface " * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
    )


SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": [0, 1],
    "pad_token_id": 0,
}


def _phi3(**changes: Any) -> Phi3Config:
    return Phi3Config(**{**SIZES, **changes})


def _longrope(rotary_dim: int) -> dict[str, Any]:
    half = rotary_dim // 2
    return {
        "original_max_position_embeddings": LONGROPE_BOUNDARY,
        "rope_parameters": {
            "rope_type": "longrope",
            "short_factor": [1.0 + 0.05 * i for i in range(half)],
            "long_factor": [1.0 + 0.75 * i for i in range(half)],
        },
    }


def _phi4_mini() -> Phi3Config:
    rope = _longrope(rotary_dim=12)  # 0.75 of heads of 16
    rope["rope_parameters"]["partial_rotary_factor"] = 0.75
    return _phi3(num_key_value_heads=2, tie_word_embeddings=True, **rope)


def _llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, "num_key_value_heads": 2, **changes})


def _llama3() -> LlamaConfig:
    rope = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    boundary = {"original_max_position_embeddings": 32, "rope_theta": 10000.0}
    return _llama(head_dim=32, rope_parameters={**rope, **boundary})


def _mistral() -> MistralConfig:
    return MistralConfig(**{**SIZES, "num_key_value_heads": 2, "sliding_window": SLIDING_WINDOW})


VARIATIONS: dict[str, Callable[[], PretrainedConfig]] = {
    "phi3-mini": lambda: _phi3(sliding_window=SLIDING_WINDOW),
    "phi3-medium": lambda: _phi3(
        num_attention_heads=8, num_key_value_heads=2, sliding_window=SLIDING_WINDOW
    ),
    "phi3.5-mini": lambda: _phi3(sliding_window=120, **_longrope(rotary_dim=16)),
    "phi4": lambda: _phi3(num_attention_heads=8, num_key_value_heads=2, rope_theta=250000.0),
    "phi4-mini": _phi4_mini,
    "llama": lambda: _llama(tie_word_embeddings=True),
    "llama3": _llama3,
    "llama-yarn": lambda: _llama(
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "rope_theta": 10000.0,
        }
    ),
    "llama-linear": lambda: _llama(
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    ),
    "mistral": _mistral,
    "sharded": lambda: _phi3(sliding_window=SLIDING_WINDOW),
}

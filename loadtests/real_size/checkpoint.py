"""A checkpoint with drawn weights in the published layout of Phi-3-mini, written layer by layer.

Every layer is a file of its own, renamed into place when it is whole: what is there already is
kept, so a run that was cut off goes on. Files depend on the configuration alone.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

# config.json of Phi-3-mini-4k-instruct, without what names its code.
PHI3_MINI_4K: Mapping[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32064,
}
END_TOKENS = [32000, 32001, 32007]  # as its generation_config.json names them
CONFIG, INDEX = "config.json", "model.safetensors.index.json"
ITEM_BYTES = 2  # of a bf16 number
NUMBERS_AT_ONCE = 1 << 22  # drawn in fp32 before they are cut to bf16

Shapes = Mapping[str, tuple[int, ...]]


class OtherCheckpoint(Exception):
    """`directory` holds a checkpoint of another configuration, or something else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(f"{directory} holds something else: name another directory, or empty it")


def write_checkpoint(directory: Path, config: Mapping[str, Any]) -> int:
    """Have the checkpoint of `config` in `directory`; bytes of its weights.

    The index comes last. Raises OtherCheckpoint, and changes nothing then.
    """
    _claim(directory, config)
    _tokenizer(config).save_pretrained(directory)
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": END_TOKENS}
    (directory / "generation_config.json").write_text(json.dumps(ends))
    shards = _shards(config)
    names = [f"model-{at:05}-of-{len(shards):05}.safetensors" for at in range(1, len(shards) + 1)]
    parts = list(enumerate(zip(names, shards, strict=True)))
    for seed, (name, shapes) in tqdm(parts, "checkpoint", unit=" files"):
        if not (directory / name).is_file():
            _write_shard(directory / name, shapes, seed, config["initializer_range"])
    files = {tensor: name for name, shapes in zip(names, shards, strict=True) for tensor in shapes}
    num_bytes = sum(ITEM_BYTES * math.prod(s) for shapes in shards for s in shapes.values())
    index = {"metadata": {"total_size": num_bytes}, "weight_map": files}
    (directory / INDEX).write_text(json.dumps(index, indent=1))
    return num_bytes


def _claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Have `config` in the directory, which is empty or has it already."""
    file, text = directory / CONFIG, json.dumps(config, indent=1)
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        file.write_text(text)
    elif not file.is_file() or file.read_text() != text:
        raise OtherCheckpoint(directory)


def _shards(config: Mapping[str, Any]) -> list[Shapes]:
    """Names and shapes of each file's tensors."""
    embedding = (config["vocab_size"], config["hidden_size"])
    layers = [_layer(config, layer) for layer in range(config["num_hidden_layers"])]
    ends = {"model.norm.weight": (config["hidden_size"],), "lm_head.weight": embedding}
    return [{"model.embed_tokens.weight": embedding}, *layers, ends]


def _layer(config: Mapping[str, Any], layer: int) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    shapes: Shapes = {
        "input_layernorm": (hidden,),
        "self_attn.qkv_proj": (heads * (hidden // config["num_attention_heads"]), hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}


def _write_shard(file: Path, shapes: Shapes, seed: int, deviation: float) -> None:
    source = np.random.Generator(np.random.SFC64(seed))
    drawn = {name: _numbers(source, shape, deviation) for name, shape in shapes.items()}
    tensors = {
        name: TensorSpec(
            dtype="bfloat16",
            shape=shapes[name],
            data_ptr=numbers.ctypes.data,
            data_len=numbers.nbytes,
        )
        for name, numbers in drawn.items()
    }
    partial = file.with_suffix(".partial")
    serialize_file(tensors, partial, {"format": "pt"})
    partial.chmod(0o644)  # safetensors makes files that only their owner may read
    partial.rename(file)


def _numbers(
    source: np.random.Generator, shape: tuple[int, ...], deviation: float
) -> NDArray[np.uint16]:
    """The bits of a weight as bf16: around 1 for a norm, around 0 for a matrix."""
    centre, count = float(len(shape) == 1), math.prod(shape)
    cut = np.empty(count, np.uint16)
    for start in range(0, count, NUMBERS_AT_ONCE):
        drawn = source.standard_normal(min(NUMBERS_AT_ONCE, count - start), np.float32)
        drawn *= deviation
        drawn += centre
        cut[start : start + len(drawn)] = drawn.view(np.uint32) >> 16
    return cut


def _tokenizer(config: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """A token to a byte; the rest of the vocabulary only comes out, each by a name of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rest = [f"<{number}>" for number in range(len(alphabet), config["vocab_size"])]
    vocabulary = {token: at for at, token in enumerate([*alphabet, *rest])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)

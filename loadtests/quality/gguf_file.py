"""The weights of a base in llama.cpp's own file format, in fp32 or Q8_0, without a tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import torch
from torch import Tensor

from server.model.checkpoint import Checkpoint
from server.model.config import ModelConfig
from server.model.weights import LayerWeights, Weights, load_weights

TYPES = {"F32": gguf.GGMLQuantizationType.F32, "Q8_0": gguf.GGMLQuantizationType.Q8_0}


def write(checkpoint: Checkpoint, kind: str, path: Path) -> None:
    """Write the file. Norms stay in fp32, as llama.cpp's own converter leaves them."""
    config = checkpoint.config
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, config)
    writer.add_rope_freq_base(_theta(checkpoint.directory))
    weights = load_weights(checkpoint.directory, config, torch.float32, "cpu", lambda w: w)
    for name, tensor in _tensors(weights, config):
        stored = TYPES[kind] if tensor.dim() == 2 else TYPES["F32"]
        data = gguf.quants.quantize(tensor.numpy(), stored)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def _theta(directory: Path) -> float:
    config = json.loads((directory / "config.json").read_text())
    return float(config["rope_parameters"]["rope_theta"])


def _tensors(weights: Weights, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    yield "token_embd", weights.embed
    yield "output_norm", weights.norm
    if weights.lm_head is not weights.embed:
        yield "output", weights.lm_head
    for index, layer in enumerate(weights.layers):
        for name, tensor in _layer_tensors(layer, config):
            yield f"blk.{index}.{name}", tensor.contiguous()


def _layer_tensors(layer: LayerWeights, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    q, k, v = layer.qkv.split([queries, keys, keys])
    gate, up = layer.gate_up.chunk(2)
    yield from {"attn_norm": layer.input_norm, "ffn_norm": layer.post_norm}.items()
    yield from {"attn_q": _paired(q, config), "attn_k": _paired(k, config), "attn_v": v}.items()
    yield from {"attn_output": layer.o, "ffn_gate": gate, "ffn_up": up}.items()
    yield "ffn_down", layer.down


def _paired(rows: Tensor, config: ModelConfig) -> Tensor:
    """RoPE turns neighbours there, where it turns halves here."""
    halves = rows.view(-1, 2, config.head_dim // 2, rows.shape[1])
    return halves.transpose(1, 2).reshape(rows.shape)

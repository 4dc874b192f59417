"""A Llama-shaped GGUF file as a Phi-3 checkpoint: names, shapes and values of the weights.

Knows nothing of tokenizers or of where the file comes from. Weights are dequantized to fp32.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor
from transformers import Phi3Config

LAYER_TENSORS = {
    "self_attn.o_proj": "attn_output",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def metadata(reader: GGUFReader, key: str) -> Any:
    """The value stored under `key`, as plain Python."""
    return reader.fields[key].contents()


def phi3_config(reader: GGUFReader) -> Phi3Config:
    """The configuration that the file's metadata describes; embeddings are tied."""

    def llama(key: str) -> Any:
        return metadata(reader, f"llama.{key}")

    return Phi3Config(
        architectures=["Phi3ForCausalLM"],
        dtype="float32",
        vocab_size=llama("vocab_size"),
        hidden_size=llama("embedding_length"),
        intermediate_size=llama("feed_forward_length"),
        num_hidden_layers=llama("block_count"),
        num_attention_heads=llama("attention.head_count"),
        num_key_value_heads=llama("attention.head_count_kv"),
        max_position_embeddings=llama("context_length"),
        original_max_position_embeddings=llama("context_length"),
        rms_norm_eps=llama("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": llama("rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=metadata(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata(reader, "tokenizer.ggml.padding_token_id"),
    )


def phi3_weights(reader: GGUFReader, config: Phi3Config) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the checkpoint by its Phi-3 name, one at a time."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    yield "model.embed_tokens.weight", _tensor(_values(tensors["token_embd.weight"]))
    for layer in range(config.num_hidden_layers):
        yield from _layer_weights(tensors, layer, config)
    yield "model.norm.weight", _tensor(_values(tensors["output_norm.weight"]))


def _layer_weights(
    tensors: dict[str, ReaderTensor], layer: int, config: Phi3Config
) -> Iterator[tuple[str, Tensor]]:
    def values(name: str) -> NDArray[np.float32]:
        return _values(tensors[f"blk.{layer}.{name}.weight"])

    prefix = f"model.layers.{layer}"
    query = unpermute(values("attn_q"), config.num_attention_heads)
    key = unpermute(values("attn_k"), config.num_key_value_heads)
    qkv = np.concatenate([query, key, values("attn_v")])
    yield f"{prefix}.self_attn.qkv_proj.weight", _tensor(qkv)
    gate_up = np.concatenate([values("ffn_gate"), values("ffn_up")])
    yield f"{prefix}.mlp.gate_up_proj.weight", _tensor(gate_up)
    for ours, theirs in LAYER_TENSORS.items():
        yield f"{prefix}.{ours}.weight", _tensor(values(theirs))


def unpermute(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows in rotate-half order again: llama.cpp interleaves the halves of each head's rows."""
    out, width = weight.shape
    halves = weight.reshape(num_heads, out // num_heads // 2, 2, width)
    return halves.swapaxes(1, 2).reshape(out, width)


def _values(tensor: ReaderTensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
    return values


def _tensor(values: NDArray[np.float32]) -> Tensor:
    return torch.tensor(values)

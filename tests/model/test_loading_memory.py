"""Loading a base takes the memory of the result and of one stored tensor, whatever its files."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from loadtests.micro.measuring import CLEAR, measure
from server.model.checkpoint import open_checkpoint
from server.model.tensor_files import TensorFiles
from server.model.weights import Weights, load_weights

MIB = 1 << 20
SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 8,
    "pad_token_id": 0,
    "vocab_size": 384,
}
CONFIGS = {"Phi-3": Phi3Config, "split": LlamaConfig}
SLACK = 24 * MIB  # what the C library keeps of small pieces; a mapped copy would be 65 MiB
NEEDS_RESET = pytest.mark.skipif(not CLEAR.exists(), reason="this system keeps no peak of memory")


def many_shards(directory: Path, kind: str) -> Path:
    """A bf16 checkpoint of 65 MiB in files of a few tensors each."""
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**SIZES), dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="5MB")
    make_tiny_tokenizer().save_pretrained(directory)
    assert len(list(directory.glob("*.safetensors"))) > 8
    return directory


def result_bytes(weights: Weights) -> int:
    return weights.embed.nbytes + sum(weight.nbytes for _, weight in weights.linears())


@NEEDS_RESET
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", CONFIGS)
def test_loading_takes_no_second_copy_of_the_model(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    """Not even a mapped one: a file's pages count as the process's too."""
    directory = many_shards(tmp_path, kind)
    config = open_checkpoint(str(directory)).config
    loaded = measure(lambda: load_weights(directory, config, dtype, "cpu", pack=lambda w: w))
    assert loaded.peak_bytes <= result_bytes(loaded.result) + SLACK


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_stored_tensor_is_gone_before_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    directory, read = many_shards(tmp_path, kind), TensorFiles.read
    config = open_checkpoint(str(directory)).config
    stored: list[weakref.ref[Tensor]] = []

    def watched(files: TensorFiles, tensor: str) -> Tensor:
        assert not any(earlier() is not None for earlier in stored), tensor
        values = read(files, tensor)
        stored.append(weakref.ref(values))
        return values

    monkeypatch.setattr(TensorFiles, "read", watched)
    load_weights(directory, config, torch.float32, "cpu", pack=lambda weight: weight.clone())
    assert len(stored) > 6 * SIZES["num_hidden_layers"]

"""A base's identity follows from the values in its files, and is hashed once."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VARIATIONS

from adapters_store.adapter import BaseIdentity
from adapters_store.digest import base_layer_digest
from server.model import identity
from server.model.checkpoint import open_checkpoint
from server.model.identity import base_identity
from server.model.tensor_files import SINGLE_FILE
from server.model.weights import load_weights

Checkpoints = Callable[[str], Path]


@pytest.fixture
def num_hashed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many layers have been hashed so far."""
    hashed: list[str] = []

    def count(weight: torch.Tensor) -> str:
        hashed.append(base_layer_digest(weight))
        return hashed[-1]

    monkeypatch.setattr(identity, "base_layer_digest", count)
    return lambda: len(hashed)


def identify(directory: Path, cache_file: Path | None = None) -> BaseIdentity:
    return base_identity("base", open_checkpoint(str(directory)), cache_file)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_identity_names_every_linear_layer_of_the_loaded_model(
    tiny_checkpoint: Checkpoints, variation: str
) -> None:
    directory = tiny_checkpoint(variation)
    config = open_checkpoint(str(directory)).config
    weights = load_weights(directory, config, torch.float32, "cpu", pack=lambda w: w)
    digests = {name: base_layer_digest(weight) for name, weight in weights.linears()}
    base = identify(directory)
    assert base.name == "base"
    assert {name: layer.digest for name, layer in base.layers.items()} == digests
    assert {name: layer.shape for name, layer in base.layers.items()} == config.linear_shapes()


def test_bf16_copy_with_the_same_values_has_the_same_identity(
    tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        copytree(tiny_checkpoint("phi3-mini"), tmp_path / str(dtype))
        stored = load_file(tmp_path / str(dtype) / SINGLE_FILE)
        rounded = {name: tensor.to(torch.bfloat16).to(dtype) for name, tensor in stored.items()}
        save_file(rounded, tmp_path / str(dtype) / SINGLE_FILE)
    wide, narrow = (identify(tmp_path / str(d)) for d in (torch.float32, torch.bfloat16))
    assert wide == narrow


def test_second_start_hashes_nothing(
    tiny_checkpoint: Checkpoints, tmp_path: Path, num_hashed: Callable[[], int]
) -> None:
    cache_file = tmp_path / "made" / "identity.json"
    first = identify(tiny_checkpoint("sharded"), cache_file)
    assert num_hashed() == len(first.layers)
    assert identify(tiny_checkpoint("sharded"), cache_file) == first
    assert num_hashed() == len(first.layers)
    assert list(cache_file.parent.iterdir()) == [cache_file]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"key": 1}', '{"key": KEY, "digests": {}}', '{"key": KEY}'],
)
def test_damaged_cache_is_hashed_anew(
    tiny_checkpoint: Checkpoints, tmp_path: Path, num_hashed: Callable[[], int], content: str
) -> None:
    cache_file = tmp_path / "identity.json"
    first = identify(tiny_checkpoint("phi3-mini"), cache_file)
    whole = cache_file.read_text()
    cache_file.write_text(content.replace("KEY", json.dumps(json.loads(whole)["key"])))
    assert identify(tiny_checkpoint("phi3-mini"), cache_file) == first
    assert num_hashed() == 2 * len(first.layers)
    assert cache_file.read_text() == whole


@pytest.mark.parametrize("later_ns", [0, 1], ids=["with the time set back", "later"])
def test_cache_of_changed_files_is_hashed_anew(
    tiny_checkpoint: Checkpoints, tmp_path: Path, later_ns: int
) -> None:
    directory, cache_file = tmp_path / "own", tmp_path / "identity.json"
    copytree(tiny_checkpoint("phi3-mini"), directory)
    first = identify(directory, cache_file)
    tensors = load_file(directory / SINGLE_FILE)
    tensors["lm_head.weight"] += 1
    before = (directory / SINGLE_FILE).stat().st_mtime_ns
    save_file(tensors, directory / SINGLE_FILE)
    os.utime(directory / SINGLE_FILE, ns=(before + later_ns, before + later_ns))
    second = identify(directory, cache_file)
    changed = {name for name in first.layers if first.layers[name] != second.layers[name]}
    assert changed == {"lm_head"}

"""Weights come in Phi-3's layout from every layout; every tensor of the files is accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VARIATIONS
from torch import Tensor

from server.model.checkpoint import open_checkpoint
from server.model.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    CheckpointUnsupported,
    ModelError,
)
from server.model.tensor_files import INDEX_FILE, SINGLE_FILE
from server.model.weights import Weights, load_weights

Checkpoints = Callable[[str], Path]
QKV = "model.layers.0.self_attn.qkv_proj.weight"


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Weights:
    return load_weights(
        directory, open_checkpoint(str(directory)).config, dtype, "cpu", pack=lambda w: w
    )


def copy_with(source: Path, target: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """A copy of a single-file checkpoint whose tensors went through `change`."""
    copytree(source, target)
    tensors = load_file(target / SINGLE_FILE)
    change(tensors)
    save_file(tensors, target / SINGLE_FILE)
    return target


@pytest.mark.parametrize("variation", VARIATIONS)
def test_linear_layers_have_the_shapes_that_the_configuration_says(
    tiny_checkpoint: Checkpoints, variation: str
) -> None:
    directory = tiny_checkpoint(variation)
    shapes = {name: tuple(weight.shape) for name, weight in load(directory).linears()}
    assert shapes == open_checkpoint(str(directory)).config.linear_shapes()


def test_llamas_q_k_v_and_gate_up_are_laid_one_below_the_other(
    tiny_checkpoint: Checkpoints,
) -> None:
    directory = tiny_checkpoint("llama3")
    stored, loaded = load_file(directory / SINGLE_FILE), load(directory).layers[1]
    parts = [stored[f"model.layers.1.self_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(loaded.qkv, torch.cat(parts))
    parts = [stored[f"model.layers.1.mlp.{x}_proj.weight"] for x in ("gate", "up")]
    assert torch.equal(loaded.gate_up, torch.cat(parts))


def test_shards_hold_the_same_model(tiny_checkpoint: Checkpoints) -> None:
    whole, sharded = tiny_checkpoint("phi3-mini"), tiny_checkpoint("sharded")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for (_, one), (_, other) in zip(load(whole).linears(), load(sharded).linears(), strict=True):
        assert torch.equal(one, other)


def test_tied_head_is_the_embedding_itself(tiny_checkpoint: Checkpoints) -> None:
    weights = load(tiny_checkpoint("phi4-mini"))
    assert weights.lm_head is weights.embed


def test_weights_are_loaded_in_the_dtype_asked_for(tiny_checkpoint: Checkpoints) -> None:
    stored = load_file(tiny_checkpoint("phi3-mini") / SINGLE_FILE)[QKV]
    loaded = load(tiny_checkpoint("phi3-mini"), torch.bfloat16).layers[0].qkv
    assert torch.equal(loaded, stored.to(torch.bfloat16))


def rename(tensors: dict[str, Tensor]) -> None:
    tensors[QKV.replace("qkv", "kqv")] = tensors.pop(QKV)


def drop_k(tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.0.self_attn.k_proj.weight"]


def set_to(name: str, make: Callable[[dict[str, Tensor]], Tensor]) -> Any:
    return lambda tensors: tensors.__setitem__(name, make(tensors))


BIAS = QKV.replace("weight", "bias")
REFUSALS = [
    ("phi3-mini", rename, "missing tensors", QKV),
    ("llama", drop_k, "missing tensors", "model.layers.0.self_attn.k_proj.weight"),
    ("phi3-mini", set_to(BIAS, lambda _: torch.zeros(3)), "unexpected tensors", BIAS),
    ("llama", set_to(QKV, lambda _: torch.zeros(3)), "unexpected tensors", QKV),
    ("phi3-mini", set_to(QKV, lambda t: t[QKV][:-1].clone()), "shapes of tensors", QKV),
    ("phi3-mini", set_to(QKV, lambda t: t[QKV].to(torch.int8)), f"dtype of {QKV}", "I8"),
    (
        "phi4-mini",
        set_to("lm_head.weight", lambda t: t["model.embed_tokens.weight"] + 1),
        "lm_head.weight",
        "tied",
    ),
]


@pytest.mark.parametrize(("variation", "change", "feature", "named"), REFUSALS)
def test_checkpoint_with_a_misfit_is_refused_and_the_tensor_named(
    tiny_checkpoint: Checkpoints,
    tmp_path: Path,
    variation: str,
    change: Callable[[dict[str, Tensor]], object],
    feature: str,
    named: str,
) -> None:
    directory = copy_with(tiny_checkpoint(variation), tmp_path / "changed", change)
    with pytest.raises(CheckpointUnsupported) as refused:
        load(directory)
    assert refused.value.feature == feature
    assert named in str(refused.value)


IGNORED = [
    ("phi4-mini", set_to("lm_head.weight", lambda t: t["model.embed_tokens.weight"].clone())),
    ("llama", set_to("model.layers.0.self_attn.rotary_emb.inv_freq", lambda _: torch.ones(8))),
]


@pytest.mark.parametrize(("variation", "change"), IGNORED, ids=["tied head", "inv_freq"])
def test_copies_and_derived_tensors_do_no_harm(
    tiny_checkpoint: Checkpoints, tmp_path: Path, variation: str, change: Any
) -> None:
    directory = copy_with(tiny_checkpoint(variation), tmp_path / "changed", change)
    assert torch.equal(load(directory).embed, load(tiny_checkpoint(variation)).embed)


def truncate(directory: Path) -> None:
    file = directory / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:-1])


def index_a_missing_file(directory: Path) -> None:
    (directory / SINGLE_FILE).unlink()
    weight_map = {QKV: "model-00001-of-00001.safetensors"}
    (directory / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def damage_the_index(directory: Path) -> None:
    (directory / SINGLE_FILE).unlink()
    (directory / INDEX_FILE).write_text("[]")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (truncate, CheckpointDamaged),
        (damage_the_index, CheckpointDamaged),
        (index_a_missing_file, CheckpointNotFound),
        (lambda directory: (directory / SINGLE_FILE).unlink(), CheckpointNotFound),
    ],
    ids=["truncated", "no index", "no shard", "no weights"],
)
def test_unreadable_files_are_typed_errors(
    tiny_checkpoint: Checkpoints,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[ModelError],
) -> None:
    directory = tmp_path / "damaged"
    copytree(tiny_checkpoint("phi3-mini"), directory)
    damage(directory)
    with pytest.raises(error):
        load(directory)

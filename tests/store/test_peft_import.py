"""PEFT's directories: the same change as PEFT's own merge, or a refusal that names the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, ShiraConfig
from peft.tuners.shira.mask_functions import random_mask
from safetensors.torch import load_file, save_file
from store.conftest import PARTS, TINY_BASE, MakePeftAdapter, PeftAdapter
from torch import Tensor

from adapters_store.adapter import ElementDelta, LowRankDelta, SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft import read_peft
from adapters_store.validation import Limits, check

# PEFT adds the change to weights of sd 0.02 in fp32: the difference is good to 1e-8 or so.
TOLERANCE = 1e-7
QKV, GATE_UP = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj"
PREFIX = "base_model.model."
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CONFIGS: dict[str, tuple[str, Any]] = {
    "shira": ("phi3", ShiraConfig(r=2, target_modules=["qkv_proj", "down_proj"])),
    "shira of all": ("phi3", ShiraConfig(r=1, target_modules="all-linear", random_seed=5)),
    "shira split": ("llama", ShiraConfig(r=2, target_modules=LLAMA_TARGETS)),
    "shira split, v only": ("llama", ShiraConfig(r=2, target_modules=["v_proj"])),
    "lora": ("phi3", LoraConfig(r=4, lora_alpha=6, target_modules=["qkv_proj", "gate_up_proj"])),
    "lora, rank stabilised": (
        "phi3",
        LoraConfig(r=3, lora_alpha=6, use_rslora=True, target_modules=["o_proj"]),
    ),
    "lora, patterns": (
        "phi3",
        LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=["qkv_proj", "down_proj"],
            rank_pattern={"layers.1.self_attn.qkv_proj": 2, r"layers\.\d+\.mlp\.down_proj": 3},
            alpha_pattern={"down_proj": 5, "proj": 11},
        ),
    ),
    "lora split": ("llama", LoraConfig(r=4, lora_alpha=8, target_modules=LLAMA_TARGETS)),
    "lora split, k and up": ("llama", LoraConfig(r=2, target_modules=["k_proj", "up_proj"])),
    "lora split, own scales": (
        "llama",
        LoraConfig(
            r=4,
            lora_alpha=7,
            target_modules=LLAMA_TARGETS,
            rank_pattern={"k_proj": 2, "up_proj": 3},
            alpha_pattern={"v_proj": 1},
        ),
    ),
}


def _read(directory: Path) -> SparseAdapter:
    adapter = read_peft(directory, TINY_BASE, PARTS)
    check(adapter, TINY_BASE, Limits(1 << 20, 1 << 20))
    return adapter


@pytest.mark.parametrize("case", CONFIGS)
def test_import_is_the_change_that_peft_merges(
    make_peft_adapter: MakePeftAdapter, case: str
) -> None:
    peft = make_peft_adapter(*CONFIGS[case])
    changes = {delta.layer: delta.dense() for delta in _read(peft.directory).deltas}
    for layer, expected in peft.merged.items():
        found = changes.get(layer, torch.zeros_like(expected))
        assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE), layer
        assert (layer in changes) == bool(expected.any())


def test_lineage_and_base_are_recorded(make_peft_adapter: MakePeftAdapter) -> None:
    adapter = _read(make_peft_adapter(*CONFIGS["shira"]).directory)
    lineage = json.loads(adapter.notes["lineage"])
    assert lineage["peft_type"] == "SHIRA"
    assert lineage["peft_version"]
    assert adapter.base_name == TINY_BASE.name
    assert adapter.base == {layer: TINY_BASE.layers[layer].digest for layer in adapter.layers}


def test_split_lora_of_one_scale_keeps_it(make_peft_adapter: MakePeftAdapter) -> None:
    same = _read(make_peft_adapter(*CONFIGS["lora split"]).directory)
    assert {delta.scale for delta in same.deltas} == {2.0}
    qkv = next(delta for delta in same.deltas if delta.layer == QKV)
    assert isinstance(qkv, LowRankDelta)
    assert (qkv.a.shape, qkv.b.shape) == ((12, 32), (64, 12))
    assert not qkv.b[:32, 4:].any()


@pytest.fixture
def shira(make_peft_adapter: MakePeftAdapter) -> PeftAdapter:
    return make_peft_adapter("phi3", ShiraConfig(r=1, target_modules=["qkv_proj"], random_seed=3))


@pytest.fixture
def lora(make_peft_adapter: MakePeftAdapter) -> PeftAdapter:
    return make_peft_adapter("phi3", LoraConfig(r=2, target_modules=["qkv_proj"]))


def _edit_tensors(peft: PeftAdapter, edit: Callable[[dict[str, Tensor]], object]) -> None:
    path = peft.directory / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _edit_config(peft: PeftAdapter, **fields: Any) -> None:
    path = peft.directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _refused(peft: PeftAdapter) -> str:
    with pytest.raises(AdapterRefused) as caught:
        _read(peft.directory)
    return str(caught.value)


def _drop_indices(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("shira_indices")]:
        del tensors[name]


def test_missing_indices_are_drawn_as_peft_drew_them(shira: PeftAdapter) -> None:
    stored = _read(shira.directory)
    _edit_tensors(shira, _drop_indices)
    assert _read(shira.directory).digest == stored.digest


def test_drawn_places_are_pefts_own_mask(shira: PeftAdapter) -> None:
    _edit_tensors(shira, _drop_indices)
    delta = _read(shira.directory).deltas[0]
    assert isinstance(delta, ElementDelta)
    mask = random_mask(torch.nn.Linear(32, 64), r=1, random_seed=3)
    assert torch.equal(delta.indices.long(), mask.flatten().nonzero().flatten())


@pytest.mark.parametrize("fields", [{"random_seed": None}, {"mask_type": "mine"}, {"r": 2}])
def test_missing_indices_that_cannot_be_drawn_are_refused(
    shira: PeftAdapter, fields: dict[str, Any]
) -> None:
    _edit_tensors(shira, _drop_indices)
    _edit_config(shira, **fields)
    assert f"{QKV}: shira_" in _refused(shira)


def test_own_mask_is_accepted_when_its_indices_are_stored(shira: PeftAdapter) -> None:
    stored = _read(shira.directory)
    _edit_config(shira, mask_type="mine", random_seed=None, r=77)
    assert _read(shira.directory).digest == stored.digest


def _each(suffix: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if name.endswith(suffix):
                tensors[name] = change(tensors[name])

    return edit


def test_unsorted_indices_are_sorted_with_their_values(shira: PeftAdapter) -> None:
    stored = _read(shira.directory)
    order = torch.randperm(96)
    _edit_tensors(shira, _each("shira_indices", lambda tensor: tensor[:, order]))
    _edit_tensors(shira, _each("shira_weight", lambda tensor: tensor[order]))
    assert _read(shira.directory).digest == stored.digest


def test_indices_from_windows_are_floats(shira: PeftAdapter) -> None:
    stored = _read(shira.directory)
    _edit_tensors(shira, _each("shira_indices", Tensor.float))
    assert _read(shira.directory).digest == stored.digest


def _at(row: int, column: int, value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[row, column] = value
        return changed

    return change


BAD_INDICES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "row past the end": (_at(0, 5, 64), "shira_indices: row 64 is outside [0, 64)"),
    "row negative": (_at(0, 5, -1), "shira_indices: row -1 is outside [0, 64)"),
    "column past the end": (_at(1, 5, 32), "shira_indices: column 32 is outside [0, 32)"),
    "repeated": (lambda it: it[:, :1].expand(2, 96), "is there twice; PEFT would add both"),
    "transposed": (lambda it: it.T, "shira_indices: shape [96, 2], expected [2, 96]"),
    "one short": (lambda it: it[:, 1:], "shira_indices: shape [2, 95], expected [2, 96]"),
    "int64": (lambda it: it.long(), "shira_indices: dtype torch.int64, expected int32 or float32"),
    "fraction": (lambda it: it.float() + 0.5, "shira_indices: not all are whole numbers"),
    "nan": (lambda it: it * float("nan"), "shira_indices: not all are whole numbers"),
}


@pytest.mark.parametrize("case", BAD_INDICES)
def test_bad_shira_indices_are_refused(shira: PeftAdapter, case: str) -> None:
    change, expected = BAD_INDICES[case]
    _edit_tensors(shira, _each("shira_indices", change))
    message = _refused(shira)
    assert f"{QKV}: " in message
    assert expected in message


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "shira, whole modules": ("shira", {"modules_to_save": ["lm_head"]}),
    "shira, transposed": ("shira", {"fan_in_fan_out": True}),
    "shira, of tomorrow": ("shira", {"alpha": 2}),
    "lora, transposed": ("lora", {"fan_in_fan_out": True}),
    "lora, whole modules": ("lora", {"modules_to_save": ["lm_head"]}),
    "DoRA": ("lora", {"use_dora": True}),
    "bias": ("lora", {"bias": "all"}),
    "LoRA bias": ("lora", {"lora_bias": True}),
    "replicated layers": ("lora", {"layer_replication": [[0, 2]]}),
    "PiSSA": ("lora", {"init_lora_weights": "pissa_niter_4"}),
    "OLoRA": ("lora", {"init_lora_weights": "olora"}),
    "CorDA": ("lora", {"init_lora_weights": "corda"}),
    "LoftQ": ("lora", {"init_lora_weights": "loftq"}),
    "EVA": ("lora", {"init_lora_weights": "eva"}),
    "start a number": ("lora", {"init_lora_weights": 1}),
    "tokens": ("lora", {"trainable_token_indices": [1]}),
    "parameters": ("lora", {"target_parameters": ["experts.w"]}),
    "Megatron": ("lora", {"megatron_config": {"a": 1}}),
    "aLoRA": ("lora", {"alora_invocation_tokens": [1, 2]}),
    "QALoRA": ("lora", {"use_qalora": True}),
    "BD-LoRA": ("lora", {"use_bdlora": {"nblocks": 2}}),
    "KaSA": ("lora", {"kasa_config": {"beta": 1}}),
    "Arrow": ("lora", {"arrow_config": {"top_k": 1}}),
    "of tomorrow": ("lora", {"use_something_new": True}),
    "rank zero": ("lora", {"r": 0}),
    "rank missing": ("lora", {"r": None}),
    "alpha a text": ("lora", {"lora_alpha": "8"}),
    "alpha negative": ("lora", {"lora_alpha": -1}),
    "alpha true": ("lora", {"lora_alpha": True}),
    "rank stabilised a text": ("lora", {"use_rslora": "yes"}),
    "rank pattern a list": ("lora", {"rank_pattern": [1]}),
    "alpha pattern of texts": ("lora", {"alpha_pattern": {"a": "b"}}),
    "alpha pattern malformed": ("lora", {"alpha_pattern": {"(": 1}}),
    "alpha pattern exponential": ("lora", {"alpha_pattern": {"(a+)+": 1}}),
    "alpha pattern of many repeats": ("lora", {"alpha_pattern": {".*.*.*.*x": 1}}),
    "alpha pattern of many choices": ("lora", {"alpha_pattern": {"(.|.)" * 30: 1}}),
    "rank patterns in mass": ("lora", {"rank_pattern": {f".*.*.*{i}": 1 for i in range(300)}}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_setting_that_cannot_be_represented_is_refused_by_name(
    request: pytest.FixtureRequest, case: str
) -> None:
    kind, fields = SETTINGS[case]
    peft: PeftAdapter = request.getfixturevalue(kind)
    _edit_config(peft, **fields)
    assert f"adapter_config.json: {next(iter(fields))} = " in _refused(peft)


@pytest.mark.parametrize("start", [True, False, "gaussian"])
def test_starts_that_leave_the_base_alone_are_accepted(lora: PeftAdapter, start: object) -> None:
    _edit_config(lora, init_lora_weights=start)
    _read(lora.directory)


TENSORS: dict[str, tuple[str, str, str]] = {
    "lora bias": ("lora", f"{PREFIX}{QKV}.lora_B.bias", "a tensor of unknown name"),
    "dora magnitude": ("lora", f"{PREFIX}{QKV}.lora_magnitude_vector", "a tensor of unknown name"),
    "embedding": ("lora", f"{PREFIX}model.embed_tokens.lora_embedding_A", "of unknown name"),
    "whole module": ("shira", f"{PREFIX}lm_head.weight", "a tensor of unknown name"),
    "without prefix": ("lora", f"{QKV}.lora_A.weight", "a tensor of unknown name"),
    "unknown layer": ("lora", f"{PREFIX}model.layers.7.x.lora_A.weight", "no linear layer"),
    "unknown part": ("lora", f"{PREFIX}xself_attn.q_proj.lora_A.weight", "no linear layer"),
    "unknown layer of shira": ("shira", f"{PREFIX}lm_head.shira_weight", "no linear layer"),
    "factor alone": ("lora", f"{PREFIX}{GATE_UP}.lora_A.weight", "lora_B.weight: missing"),
    "indices alone": ("shira", f"{PREFIX}{GATE_UP}.shira_indices", "shira_weight: expected"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_unknown_tensor_is_refused_by_name(request: pytest.FixtureRequest, case: str) -> None:
    kind, name, expected = TENSORS[case]
    peft: PeftAdapter = request.getfixturevalue(kind)
    _edit_tensors(peft, lambda tensors: tensors.update({name: torch.ones(1)}))
    message = _refused(peft)
    assert name.removeprefix(PREFIX).split(".lora")[0].split(".shira")[0] in message
    assert expected in message


@pytest.mark.parametrize("suffix", ["lora_A.weight", "lora_B.weight"])
def test_factor_of_another_rank_is_refused(lora: PeftAdapter, suffix: str) -> None:
    _edit_config(lora, r=3)
    assert f"{QKV}: {suffix}: shape" in _refused(lora)


def test_layer_changed_whole_and_in_parts_is_refused(lora: PeftAdapter) -> None:
    def add_value_part(tensors: dict[str, Tensor]) -> None:
        name = f"{PREFIX}model.layers.0.self_attn.v_proj"
        tensors[f"{name}.lora_A.weight"] = torch.ones(2, 32)
        tensors[f"{name}.lora_B.weight"] = torch.ones(16, 2)

    _edit_tensors(lora, add_value_part)
    assert _refused(lora) == f"{QKV}: row 48 is changed twice"


@pytest.mark.parametrize("peft_type", ["IA3", None, ["LORA"]])
def test_other_kinds_of_peft_are_refused(lora: PeftAdapter, peft_type: object) -> None:
    _edit_config(lora, peft_type=peft_type)
    assert f"peft_type {peft_type!r} is not one of ['LORA', 'SHIRA']" in _refused(lora)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "\xff", '{"a": NaN}', '{"a": "\\ud800"}'])
def test_malformed_config_is_refused(lora: PeftAdapter, text: str) -> None:
    (lora.directory / "adapter_config.json").write_text(text, encoding="latin-1")
    assert "adapter_config.json: " in _refused(lora)


def test_nothing_to_change_is_refused(lora: PeftAdapter) -> None:
    _edit_tensors(lora, lambda tensors: tensors.clear())
    assert "deltas: there are none" in _refused(lora)

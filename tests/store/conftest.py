"""Adapters that PEFT made on tiny models, as PEFT saves them, with PEFT's own merged weights."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from adapters_store.adapter import BaseIdentity, BaseLayer
from adapters_store.importers.peft_source import Parts
from adapters_store.registry import Registry

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MODELS = {
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
}
# 4 query heads and 2 key/value heads of 8; gate and up of 48.
PARTS: Parts = {
    "self_attn.q_proj": ("self_attn.qkv_proj", 0, 32),
    "self_attn.k_proj": ("self_attn.qkv_proj", 32, 16),
    "self_attn.v_proj": ("self_attn.qkv_proj", 48, 16),
    "mlp.gate_proj": ("mlp.gate_up_proj", 0, 48),
    "mlp.up_proj": ("mlp.gate_up_proj", 48, 48),
}
SHAPES = {
    "self_attn.qkv_proj": (64, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_up_proj": (96, 32),
    "mlp.down_proj": (32, 48),
}
TINY_BASE = BaseIdentity(
    "tiny-phi3",
    {
        f"model.layers.{i}.{name}": BaseLayer(shape, f"sha256:{i}{len(name):063}")
        for i in range(SIZES["num_hidden_layers"])
        for name, shape in SHAPES.items()
    },
)


OpenRegistry = Callable[[], Registry]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite'}"
    made: str = request.getfixturevalue("new_postgres_database")()
    return made


@pytest.fixture
def open_registry(url: str) -> Iterator[OpenRegistry]:
    """Opens the registry at `url`, any number of times; all are closed in the end."""
    opened: list[Registry] = []

    def open_one() -> Registry:
        opened.append(Registry(url))
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


@dataclass(frozen=True)
class PeftAdapter:
    """A directory that PEFT saved, and what PEFT's own merge adds to each linear weight."""

    directory: Path
    merged: Mapping[str, Tensor]  # fused layer -> merged minus base, fp32 [out, in]


MakePeftAdapter = Callable[..., PeftAdapter]


@pytest.fixture
def make_peft_adapter(tmp_path: Path) -> MakePeftAdapter:
    """`make(model, config)`: random trained values, saved, loaded by PEFT, merged by PEFT."""

    def make(model: str, config: Any) -> PeftAdapter:
        torch.manual_seed(11)
        directory = tmp_path / "peft"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT and transformers, about themselves
            base = MODELS[model]()
            before = {name: value.clone() for name, value in base.state_dict().items()}
            trained = get_peft_model(base, config)
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter.data.normal_(std=0.1)
            trained.save_pretrained(directory)
            fresh = MODELS[model]()
            fresh.load_state_dict(before)
            loaded = PeftModel.from_pretrained(fresh, directory)
            after = loaded.merge_and_unload().state_dict()
        return PeftAdapter(directory, _fused({name: after[name] - before[name] for name in before}))

    return make


def _fused(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By fused layer name, whatever the model's own layers are called."""
    layers = {layer: torch.zeros(known.shape) for layer, known in TINY_BASE.layers.items()}
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        if module in layers:
            layers[module] += weight
        for suffix, (fused, first_row, num_rows) in PARTS.items():
            if module.endswith(f".{suffix}"):
                layer = module.removesuffix(suffix) + fused
                layers[layer][first_row : first_row + num_rows] += weight
    return layers

"""Sizes of a base model, and how many numbers it has. Owns the table of well-known ones.

Reads `config.json` as JSON: transformers is not needed for counting. Layers are those of Phi-3's
layout (q, k, v rows in one matrix, gate and up rows in another), whatever the checkpoint has.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from server.plan.errors import ConfigUnusable, NameUnknown

CONFIG_FILE = "config.json"
WINDOWED = ("phi3", "mistral")  # model types whose attention heeds `sliding_window`
SERVED = (*WINDOWED, "llama")
NORMS_PER_LAYER = 2


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight `[rows, columns]`: so many outputs and inputs."""

    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Numbers."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes in numbers, layers, tokens. `window`: tokens that a token sees, all if None."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    window: int | None
    tied: bool  # the head is the embedding

    @property
    def kv_size(self) -> int:
        """Numbers of one token's keys in one layer, and of its values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> Mapping[str, Matrix]:
        """The linear layers of one decoder layer, by logical name."""
        query = self.heads * self.head_dim
        return {
            "qkv_proj": Matrix(query + 2 * self.kv_size, self.hidden),
            "o_proj": Matrix(self.hidden, query),
            "gate_up_proj": Matrix(2 * self.intermediate, self.hidden),
            "down_proj": Matrix(self.hidden, self.intermediate),
        }

    @property
    def head(self) -> Matrix:
        return Matrix(self.vocab, self.hidden)

    @property
    def linear_numbers(self) -> int:
        """Numbers of all linear layers: layers * sum of rows * columns, and the head."""
        return self.layers * sum(m.size for m in self.linears.values()) + self.head.size

    @property
    def norm_numbers(self) -> int:
        """Two norms of `hidden` numbers for each layer, and one at the end."""
        return (NORMS_PER_LAYER * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        """All numbers of the checkpoint; a tied head is its embedding and counts once."""
        embedding = 0 if self.tied else self.head.size
        return self.linear_numbers + embedding + self.norm_numbers


def _phi3(**sizes: Any) -> ModelShape:
    """Phi-3-mini but for `sizes`."""
    mini: dict[str, Any] = {
        "vocab": 32064,
        "hidden": 3072,
        "intermediate": 8192,
        "layers": 32,
        "heads": 32,
        "kv_heads": 32,
        "head_dim": 96,
        "positions": 4096,
        "window": 2047,
        "tied": False,
    }
    return ModelShape(**{**mini, **sizes})


def _medium(**sizes: Any) -> ModelShape:
    """Phi-3-medium but for `sizes`."""
    medium: dict[str, Any] = {
        "hidden": 5120,
        "intermediate": 17920,
        "layers": 40,
        "heads": 40,
        "kv_heads": 10,
        "head_dim": 128,
    }
    return _phi3(**{**medium, **sizes})


MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        "phi-3-mini-4k": _phi3(),
        "phi-3-medium-4k": _medium(),
        "phi-3.5-mini": _phi3(positions=131072, window=262144),
        "phi-4": _medium(vocab=100352, positions=16384, window=None),
        "phi-4-mini": _phi3(
            vocab=200064,
            heads=24,
            kv_heads=8,
            head_dim=128,
            positions=131072,
            window=262144,
            tied=True,
        ),
        "demo": ModelShape(
            vocab=49152,
            hidden=576,
            intermediate=1536,
            layers=30,
            heads=9,
            kv_heads=3,
            head_dim=64,
            positions=8192,
            window=None,
            tied=True,
        ),
    }
)


def find_model(name: str) -> ModelShape:
    """A model of the table, or of a `config.json` or the directory that holds one.

    Raises NameUnknown and ConfigUnusable.
    """
    if name in MODELS:
        return MODELS[name]
    path = Path(name)
    if not path.exists():
        raise NameUnknown("model", name, MODELS)
    return read_shape(path / CONFIG_FILE if path.is_dir() else path)


def read_shape(path: Path) -> ModelShape:
    """The sizes in a checkpoint's `config.json`. Raises ConfigUnusable."""
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigUnusable(path, str(error)) from error
    if not isinstance(config, dict):
        raise ConfigUnusable(path, "no JSON object")
    if config.get("model_type") not in SERVED:
        raise ConfigUnusable(path, f"model_type {config.get('model_type')!r} is not served")
    try:
        return _shape(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigUnusable(path, f"no usable {error}") from error


def _shape(config: Mapping[str, Any]) -> ModelShape:
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    windowed = config["model_type"] in WINDOWED
    return ModelShape(
        vocab=_size(config, "vocab_size"),
        hidden=hidden,
        intermediate=_size(config, "intermediate_size"),
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads") if "num_key_value_heads" in config else heads,
        head_dim=config.get("head_dim") or hidden // heads,
        positions=_size(config, "max_position_embeddings"),
        window=config.get("sliding_window") if windowed else None,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _size(config: Mapping[str, Any], field: str) -> int:
    value = config[field]
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{field}: {value!r}")
    return value

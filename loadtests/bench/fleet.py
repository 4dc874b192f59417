"""Adapters for a benchmark: as many numbers in each, as element or as low-rank adapters.

They change the fused q/k/v matrix of every layer, at random. Made as PEFT directories, which every
side reads: a LoRA of rank r has r * (in + out) numbers a layer, and the element adapter that stands
beside it as many entries.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from loadtests.bodies import adapter_name

Kind = Literal["element", "low_rank"]
Files = dict[str, bytes]
TARGET = "qkv_proj"
OWN_COUNTS = "intarsia_own_entries"  # the file form wants r * (in + out): the rest is padding


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the matrices that adapters change."""

    layers: int
    rows: int
    columns: int

    @classmethod
    def of(cls, base: Path) -> "Shape":
        """Of the Phi-3 checkpoint in the directory `base`."""
        config = json.loads((base / "config.json").read_text())
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_size = config.get("head_dim") or hidden // heads
        rows = (heads + 2 * config["num_key_value_heads"]) * head_size
        return cls(config["num_hidden_layers"], rows, hidden)

    @property
    def side(self) -> int:
        """Numbers of one rank."""
        return self.rows + self.columns


@dataclass(frozen=True, slots=True)
class Fleet:
    """`count` adapters that change about `keep_ratio` of each matrix."""

    count: int
    keep_ratio: float = 0.01

    def rank(self, shape: Shape) -> int:
        """The nearest rank; 1 is the least there is."""
        return max(1, round(self.keep_ratio * shape.rows * shape.columns / shape.side))

    def entries(self, shape: Shape) -> int:
        """A layer's, of an element adapter: a LoRA's numbers, or fewer where rank 1 is too many."""
        wanted = round(self.keep_ratio * shape.rows * shape.columns)
        return wanted if wanted < shape.side else self.rank(shape) * shape.side

    def files(self, kind: Kind, number: int, shape: Shape) -> Files:
        """Adapter `number` as the files of a PEFT directory; the same bytes for the same number."""
        make = _element if kind == "element" else _low_rank
        return make(np.random.default_rng(number), self, shape)

    def write(self, kind: Kind, shape: Shape, folder: Path) -> dict[str, Path]:
        """Directories by name, in `folder`."""
        folders = {}
        for number in range(self.count):
            folders[adapter_name(number)] = own = folder / adapter_name(number)
            own.mkdir(parents=True)
            for name, content in self.files(kind, number, shape).items():
                (own / name).write_bytes(content)
        return folders


def zipped(files: Files) -> bytes:
    """`files` as an archive to upload."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _low_rank(source: np.random.Generator, fleet: Fleet, shape: Shape) -> Files:
    rank = fleet.rank(shape)
    tensors: dict[str, Any] = {}
    for stem in _stems(shape):
        down = source.standard_normal((rank, shape.columns), dtype=np.float32)
        up = source.standard_normal((shape.rows, rank), dtype=np.float32)
        tensors |= {f"{stem}.lora_A.weight": down * 0.1, f"{stem}.lora_B.weight": up * 0.01}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "task_type": "CAUSAL_LM"}
    return _directory(config, tensors, {})


def _element(source: np.random.Generator, fleet: Fleet, shape: Shape) -> Files:
    entries, size = fleet.entries(shape), fleet.rank(shape) * shape.side
    tensors: dict[str, Any] = {}
    for stem in _stems(shape):
        flat = source.choice(shape.rows * shape.columns, size, replace=False)
        flat[:entries].sort()
        values = source.standard_normal(size, dtype=np.float32) * 0.01
        values[entries:] = 0
        places = np.stack(np.unravel_index(flat, (shape.rows, shape.columns))).astype(np.int32)
        tensors |= {f"{stem}.shira_weight": values, f"{stem}.shira_indices": places}
    own = {stem.removeprefix("base_model.model."): entries for stem in _stems(shape)}
    config = {"peft_type": "SHIRA", "r": fleet.rank(shape), "mask_type": "random"}
    return _directory(config, tensors, {OWN_COUNTS: json.dumps(own)})


def _stems(shape: Shape) -> list[str]:
    stem = "base_model.model.model.layers"
    return [f"{stem}.{layer}.self_attn.{TARGET}" for layer in range(shape.layers)]


def _directory(config: Mapping[str, Any], tensors: Any, metadata: dict[str, str]) -> Files:
    return {
        "adapter_config.json": json.dumps({**config, "target_modules": [TARGET]}).encode(),
        "adapter_model.safetensors": save(tensors, {"format": "pt", **metadata}),
    }

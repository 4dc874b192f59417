"""A PEFT directory as it was found, and where its modules lie in a base.

Common to the kinds of PEFT adapter; knows none of them. PEFT names a layer by its module in the
model that it was trained on. Where that model had q, k, v (or gate, up) apart, `Layout` finds the
rows of the fused layer that such a part is.
"""

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adapters_store.adapter import BaseIdentity
from adapters_store.canonical import canonical_json
from adapters_store.errors import AdapterRefused
from adapters_store.files import parse_json, read_tensors
from adapters_store.importers.archive import CONFIG, TENSORS

PREFIX = "base_model.model."
# Settings of every kind that say where an adapter comes from or which modules it was made for:
# the names of the tensors say that too, and bindingly.
COMMON_SETTINGS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "r",
        "revision",
        "target_modules",
        "task_type",
    }
)

# Split module's suffix -> (fused module's suffix, first row, number of rows).
Parts = Mapping[str, tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class Place:
    """The rows of a base layer that a module of the adapter's model is."""

    layer: str
    shape: tuple[int, int]  # of the base layer
    first_row: int
    num_rows: int

    @property
    def last_row(self) -> int:
        return self.first_row + self.num_rows


@dataclass(frozen=True, slots=True)
class Layout:
    """The linear layers of a base, and the names that a model with split layers has for them."""

    base: BaseIdentity
    parts: Parts

    def place(self, module: str) -> Place | None:
        """Where `module` lies; None if the base has no such rows."""
        if module in self.base.layers:
            shape = self.base.layers[module].shape
            return Place(module, shape, 0, shape[0])
        for suffix, (fused, first_row, num_rows) in self.parts.items():
            layer = module.removesuffix(suffix) + fused
            if module.endswith(f".{suffix}") and layer in self.base.layers:
                return Place(layer, self.base.layers[layer].shape, first_row, num_rows)
        return None


@dataclass(frozen=True, slots=True)
class PeftSource:
    """The two files of a PEFT directory."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]  # of the tensors' file

    @classmethod
    def read(cls, directory: Path) -> "PeftSource":
        config = parse_json(CONFIG, (directory / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise AdapterRefused([f"{CONFIG}: expected a JSON object"])
        metadata, tensors = read_tensors(directory / TENSORS)
        return cls(config, tensors, metadata)

    def unknown_settings(self, known: Iterable[str]) -> Iterator[str]:
        """A reason for each setting beyond `known` that asks for something."""
        for key in sorted(set(self.config) - set(known) - COMMON_SETTINGS):
            if self.config[key] not in (None, False, "", [], {}):
                yield refused_setting(key, self.config[key])

    def modules(self, suffixes: Iterable[str], reasons: list[str]) -> dict[str, dict[str, Tensor]]:
        """Tensors by module and suffix; adds a reason for each tensor that has neither."""
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            suffix = next((each for each in suffixes if name.endswith(f".{each}")), None)
            if suffix is None or not name.startswith(PREFIX):
                reasons.append(f"{name}: a tensor of unknown name")
            else:
                module = name.removeprefix(PREFIX).removesuffix(f".{suffix}")
                modules.setdefault(module, {})[suffix] = tensor
        return modules

    @property
    def lineage(self) -> str:
        """Where the adapter comes from, as JSON."""
        keys = ("peft_version", "peft_type", "base_model_name_or_path")
        texts = {key: value for key in keys if isinstance(value := self.config.get(key), str)}
        return canonical_json(texts).decode()


def refused_setting(key: str, value: Any) -> str:
    return f"{CONFIG}: {key} = {reprlib.repr(value)} cannot be represented"


def check_places(places: Iterable[Place]) -> None:
    """Raise AdapterRefused where two modules change the same rows (a layer whole and in parts)."""
    end: dict[str, int] = {}
    for place in sorted(places, key=lambda place: (place.layer, place.first_row)):
        if place.first_row < end.get(place.layer, 0):
            raise AdapterRefused([f"{place.layer}: row {place.first_row} is changed twice"])
        end[place.layer] = place.last_row

"""Sparse fine-tuning as SpIEL (row-major places) and LT-SFT (column-major places) store it."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.converters.parts import BiasEntries, Entries, Part, Target, check_shape
from adapters_store.converters.pickles import read_state, read_torch
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import Place

SPIEL_FILES = ("adapter_model.safetensors", "adapter_model.bin")
SPIEL_NAME = re.compile(r"(?P<module>.+)\.sft_delta(?:\.(?P<adapter>[^.]+))?\.(?P<part>\w+)")
LT_SFT_FILE = "pytorch_diff.bin"
LT_SFT_PARTS = frozenset({"diffs", "abs"})


def read_spiel(source: Path, target: Target) -> Iterator[Part]:
    """`<module>.sft_delta.<adapter>.indices` (flat, row-major, int32) and `.values`."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    adapters: set[str | None] = set()
    for name, tensor in read_state(tensor_file(source, SPIEL_FILES)).items():
        found = SPIEL_NAME.fullmatch(name)
        if found is None or found["part"] not in ("indices", "values"):
            raise AdapterRefused([f"{name}: is no tensor of a SpIEL adapter"])
        modules[found["module"]][found["part"]] = tensor
        adapters.add(found["adapter"])
    if len(adapters) > 1:
        raise AdapterRefused([f"several adapters in one file: {sorted(map(str, adapters))}"])
    for module, tensors in modules.items():
        if len(tensors) != 2:
            raise AdapterRefused([f"{module}: has only {', '.join(tensors)}"])
        yield Entries(target.place(module), tensors["indices"].flatten(), tensors["values"])


def tensor_file(source: Path, names: tuple[str, ...]) -> Path:
    """`source` itself, or the first of `names` in a directory."""
    if source.is_file():
        return source
    for name in names:
        if (source / name).is_file():
            return source / name
    raise AdapterRefused([f"{source}: holds none of {', '.join(names)}"])


def read_lt_sft(source: Path, target: Target) -> Iterator[Part]:
    """`diffs` are added to the base; `abs` are whole tensors that take the base's place."""
    content = read_torch(tensor_file(source, (LT_SFT_FILE,)))
    if not content.keys() <= LT_SFT_PARTS or "diffs" not in content:
        found = ", ".join(content)
        raise AdapterRefused([f"{LT_SFT_FILE}: has {found}; expected diffs, and abs or not"])
    for name, encoding in content["diffs"].items():
        yield _difference(name, encoding, target)
    for name, tensor in (content.get("abs") or {}).items():
        yield _replacement(name, torch.as_tensor(tensor), target)


def _parameter(name: str, target: Target) -> tuple[Place, bool]:
    """The place of a parameter, and whether it is its bias."""
    module, _, parameter = name.rpartition(".")
    if parameter not in ("weight", "bias"):
        raise AdapterRefused([f"{name}: is neither a weight nor a bias"])
    return target.place(module), parameter == "bias"


def _difference(name: str, encoding: Mapping[str, Any], target: Target) -> Part:
    place, is_bias = _parameter(name, target)
    missing = [key for key in ("size", "index_steps", "values") if key not in encoding]
    if missing:
        raise AdapterRefused([f"{name}: {key}: missing" for key in missing])
    size = (place.num_rows,) if is_bias else (place.num_rows, place.shape[1])
    if tuple(encoding["size"]) != size:
        raise AdapterRefused([f"{name}: size {tuple(encoding['size'])}, the base has {size}"])
    # In int64: the writer's own int32 sums overflow where out * in > 2**31.
    flat = torch.as_tensor(encoding["index_steps"]).long().cumsum(0)
    values = torch.as_tensor(encoding["values"])
    _check_encoding(name, flat, values, size)
    if is_bias:
        return BiasEntries(place, torch.zeros(size, dtype=values.dtype).index_put((flat,), values))
    row, column = flat % place.num_rows, flat // place.num_rows
    return Entries(place, row * place.shape[1] + column, values)


def _check_encoding(name: str, flat: Tensor, values: Tensor, size: tuple[int, ...]) -> None:
    end = torch.Size(size).numel()
    if flat.shape != values.shape or flat.dim() != 1:
        raise AdapterRefused([f"{name}: {list(values.shape)} values, {list(flat.shape)} steps"])
    if ((flat < 0) | (flat >= end)).any() or (flat[1:] <= flat[:-1]).any():
        raise AdapterRefused([f"{name}: index_steps do not ascend inside [0, {end})"])


def _replacement(name: str, tensor: Tensor, target: Target) -> Part:
    """What the base is to be changed by so that it becomes `tensor`, where they differ."""
    place, is_bias = _parameter(name, target)
    if is_bias:  # no base here has biases
        return BiasEntries(place, tensor)
    check_shape(place, "abs", tensor, (place.num_rows, place.shape[1]))
    change = (tensor.float() - target.base_rows(place)).flatten()
    flat = change.nonzero().flatten()
    return Entries(place, flat, change[flat])

"""A base checkpoint with an adapter added to it for good, in the files and dtypes that it has."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters_store.adapter import BiasDelta, SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import Layout
from offline.base import Base
from server.model.tensor_files import tensor_paths
from server.model.weights import HEAD

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5"})


def write_merged(base: Base, adapter: SparseAdapter, weight: float, directory: Path) -> None:
    """Write the base plus `weight` times the adapter; shards, dtypes and other files as they were.

    Each entry is rounded once. AdapterRefused for a bias, or for a head that is the embedding too.
    """
    _check(base, adapter)
    directory.mkdir(parents=True, exist_ok=True)
    for path in base.directory.iterdir():
        if path.is_file() and path.suffix not in WEIGHT_SUFFIXES:
            shutil.copyfile(path, directory / path.name)
    merge = _Merge(base.layout, adapter, weight)
    for path in tensor_paths(base.directory):
        with safe_open(path, framework="pt") as file:
            tensors = {name: merge(name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            save_file(tensors, directory / path.name, file.metadata())
        shutil.copymode(path, directory / path.name)


def _check(base: Base, adapter: SparseAdapter) -> None:
    reasons = [
        f"{delta.layer}: the base has no bias to add to"
        for delta in adapter.deltas
        if isinstance(delta, BiasDelta)
    ]
    if HEAD in adapter.layers and base.checkpoint.config.tie_word_embeddings:
        reasons.append(f"{HEAD}: is the embedding too, which the adapter leaves alone")
    if reasons:
        raise AdapterRefused(reasons)


@dataclass(frozen=True, slots=True)
class _Merge:
    layout: Layout
    adapter: SparseAdapter
    weight: float

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """The stored tensor `name`, with what the adapter does to its rows."""
        place = self.layout.place(name.removesuffix(".weight"))
        if place is None or place.layer not in self.adapter.layers:
            return tensor
        delta = next(delta for delta in self.adapter.deltas if delta.layer == place.layer)
        change = delta.dense()[place.first_row : place.last_row].double() * self.weight
        return round_once(tensor.double() + change, tensor.dtype)


def round_once(values: Tensor, dtype: torch.dtype) -> Tensor:
    """fp64 `values` in a narrower dtype, to nearest even, with one rounding.

    torch goes from fp64 to 16 bits by way of fp32, which rounds twice. Rounding to odd in between
    keeps what the second rounding must know: an inexact fp32 value gets an odd last bit.
    """
    near = values.float()
    if dtype == torch.float32:
        return near
    rest = values - near.double()
    is_even = near.view(torch.int32) & 1 == 0
    toward = torch.where(rest > 0, torch.inf, -torch.inf).float()
    odd = torch.where((rest != 0) & is_even, near.nextafter(toward), near)
    return odd.to(dtype)

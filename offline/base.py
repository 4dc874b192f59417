"""A checkpoint as the offline commands need it: any layer's weight, and the identity.

Reads one layer at a time. Knows no adapter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from adapters_store.adapter import BaseIdentity
from adapters_store.importers.peft_source import Layout
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.identity import base_identity
from server.model.tensor_files import TensorFiles, open_tensor_files
from server.model.weights import EMBEDDING, HEAD


@dataclass(frozen=True)
class Base:
    """A checkpoint directory."""

    checkpoint: Checkpoint

    @classmethod
    def open(cls, path: Path) -> "Base":
        """Raises ModelError where this server could not serve the checkpoint either."""
        return cls(open_checkpoint(str(path)))

    @property
    def directory(self) -> Path:
        return self.checkpoint.directory

    @cached_property
    def identity(self) -> BaseIdentity:
        """Named after the directory. Hashes every layer."""
        return base_identity(self.directory.resolve().name, self.checkpoint, None)

    @property
    def layout(self) -> Layout:
        return Layout(self.identity, self.checkpoint.config.split_parts())

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return self.checkpoint.config.linear_shapes()

    def weight(self, layer: str) -> Tensor:
        """The weight of a layer by its logical name, fp32 `[out, in]`."""
        with open_tensor_files(self.directory) as files:
            return files.read_rows(self._stored_names(layer, files), torch.float32, "cpu")

    def _stored_names(self, layer: str, files: TensorFiles) -> tuple[str, ...]:
        if f"{layer}.weight" in files.file_of:
            return (f"{layer}.weight",)
        if layer == HEAD:
            return (f"{EMBEDDING}.weight",)
        return tuple(f"{part}.weight" for part in self._parts_of(layer))

    def _parts_of(self, layer: str) -> Iterator[str]:
        """The split modules of a fused layer, from the first row on."""
        parts = self.checkpoint.config.split_parts().items()
        for suffix, (fused, _, _) in sorted(parts, key=lambda item: item[1][1]):
            if layer.endswith(f".{fused}"):
                yield layer.removesuffix(fused) + suffix

    @contextmanager
    def other_tensors(self) -> Iterator[dict[str, TensorFiles]]:
        """Tensors of no linear layer, by name."""
        layers = set(self.shapes)
        parts = {part for layer in layers for part in self._parts_of(layer)}
        with open_tensor_files(self.directory) as files:
            linear = {f"{name}.weight" for name in layers | parts}
            yield {name: files for name in files.file_of if name not in linear}

"""The safetensors files of one checkpoint directory: which tensors they hold, read one at a time.

Knows file formats, not models.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from server.model.errors import CheckpointDamaged, CheckpointNotFound, CheckpointUnsupported

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True, eq=False)
class TensorFiles:
    """Open files, and which of them holds each tensor. Made by `open_tensor_files`."""

    name: str  # of the checkpoint, for errors
    file_of: Mapping[str, Any]  # tensor name -> open safetensors file

    def shape(self, tensor: str) -> tuple[int, ...]:
        return tuple(self.file_of[tensor].get_slice(tensor).get_shape())

    def read(self, tensor: str) -> Tensor:
        """A new tensor as stored, on the CPU.

        Raises CheckpointUnsupported for an odd dtype, CheckpointDamaged where it is not all there.
        """
        dtype = self.file_of[tensor].get_slice(tensor).get_dtype()
        if dtype not in DTYPES:
            raise CheckpointUnsupported(self.name, f"dtype of {tensor}", dtype)
        try:
            stored: Tensor = self.file_of[tensor].get_tensor(tensor)
        except SafetensorError as error:  # cut short since it was opened
            raise CheckpointDamaged(self.name, tensor, str(error)) from error
        return stored

    def read_rows(
        self, tensors: tuple[str, ...], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """`tensors` one below the other, as one new tensor."""
        if len(tensors) == 1:
            return self.read(tensors[0]).to(device, dtype)  # the one that was read, if it can be
        shapes = [self.shape(tensor) for tensor in tensors]
        num_rows = [shape[0] for shape in shapes]
        whole = torch.empty((sum(num_rows), *shapes[0][1:]), dtype=dtype, device=device)
        for tensor, rows in zip(tensors, whole.split(num_rows), strict=True):
            rows.copy_(self.read(tensor))
        return whole


def tensor_paths(directory: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint: one, or those its index names."""
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        return (single,)
    if not index.is_file():
        detail = f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}"
        raise CheckpointNotFound(str(directory), detail)
    paths = tuple(directory / name for name in _indexed_names(index))
    for path in paths:
        if not path.is_file():
            raise CheckpointNotFound(str(directory), f"{INDEX_FILE} names {path.name}, not there")
    return paths


@contextmanager
def open_tensor_files(directory: Path, *, mapped: bool = False) -> Iterator[TensorFiles]:
    """The tensors of the checkpoint in `directory`, while the context lasts.

    For whole tensors: `mapped` keeps what was read in memory, a second copy. For a few rows of one:
    what is not mapped is read whole for them.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path, mapped)) for path in tensor_paths(directory)]
        file_of = {tensor: file for file in files for tensor in file.keys()}  # noqa: SIM118
        yield TensorFiles(str(directory), file_of)


def _indexed_names(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointDamaged(str(index.parent), INDEX_FILE, repr(error)) from error


def _opened(path: Path, mapped: bool) -> Any:
    try:
        return safe_open(path, framework="pt", backend="mmap" if mapped else "pread")
    except SafetensorError as error:
        raise CheckpointDamaged(str(path.parent), path.name, str(error)) from error

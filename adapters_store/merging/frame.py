"""The frame of a safetensors file: where each tensor lies, so that one can be read by itself.

Knows nothing of adapters. Reads at offsets, which threads may do at once.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from adapters_store.digest import DTYPE_NAMES
from adapters_store.errors import AdapterRefused
from adapters_store.files import parse_json

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its form, and its offset in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Every tensor of a file by name, each wholly inside the file, and the file's metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, file: BinaryIO) -> "Frame":
        """AdapterRefused if `file` is not a whole safetensors file of our dtypes."""
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(os.pread(file.fileno(), LENGTH_BYTES, 0), "little")
        data = LENGTH_BYTES + length
        if size < data:
            raise AdapterRefused(["file: not a whole safetensors file: it ends in its header"])
        header = parse_json("header", os.pread(file.fileno(), length, LENGTH_BYTES))
        if not isinstance(header, dict):
            raise AdapterRefused(["header: expected a JSON object"])
        metadata = header.pop("__metadata__", {})
        if not _is_texts(metadata):
            raise AdapterRefused(["header: expected metadata of strings"])
        entries = {name: _entry(name, value, data, size) for name, value in header.items()}
        return cls(entries, metadata)

    def outline(self, name: str) -> Tensor:
        """The tensor without its values, on the meta device."""
        entry = self.entries[name]
        return torch.empty(entry.shape, dtype=entry.dtype, device="meta")

    def read(self, file: BinaryIO, name: str) -> Tensor:
        """The tensor, in memory of its own; AdapterRefused if the file has become shorter."""
        entry = self.entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if tensor.numel():
            _read_into(tensor.view(-1).view(torch.uint8).numpy().data, file, entry.start)
        return tensor


def _entry(name: str, value: Any, data: int, size: int) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            if dtype in DTYPES and all(type(n) is int and n >= 0 for n in shape):
                entry = Entry(DTYPES[dtype], tuple(shape), data + start)
                num_bytes = math.prod(shape) * entry.dtype.itemsize
                if start >= 0 and end - start == num_bytes and data + end <= size:
                    return entry
    raise AdapterRefused([f"{name}: not a whole tensor of one of {[*DTYPES]}"])


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _read_into(target: memoryview, file: BinaryIO, offset: int) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(file.fileno(), [target[done:]], offset + done)
        if not count:
            raise AdapterRefused(["file: not a whole safetensors file: it became shorter"])
        done += count

"""Whole adapters merged: layer by layer, from memory and from files, by threads, from a cache."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_factories import BASE, DOWN, GATE_UP, QKV, adapter_of, adapters, bias, element, random

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.errors import AdapterRefused, BaseMismatch, BlobCorrupt
from adapters_store.merging.cache import layer_cache
from adapters_store.merging.merge import merge
from adapters_store.merging.reader import AdapterReader, FileReader, MemoryReader
from adapters_store.merging.recipe import Recipe

F32 = torch.float32


def in_memory(members: Iterable[SparseAdapter]) -> dict[str, AdapterReader]:
    return {adapter.digest: MemoryReader(adapter) for adapter in members}


def recipe_of(members: Iterable[SparseAdapter], method: str = "overlap_average") -> Recipe:
    return Recipe.build(method, {}, [(adapter.digest, 1.0) for adapter in members])


class Counted(MemoryReader):
    """Counts the layers that are read."""

    def __init__(self, adapter: SparseAdapter) -> None:
        super().__init__(adapter)
        self.read: list[str] = []

    def deltas(self, layer: str) -> tuple:
        self.read.append(layer)
        return super().deltas(layer)

    def digests(self, layer: str) -> tuple[str, ...]:
        return tuple(delta.digest for delta in super().deltas(layer))


@given(st.lists(adapters(), min_size=1, max_size=4))
def test_files_and_memory_and_threads_give_the_same_bytes(members: list[SparseAdapter]) -> None:
    import tempfile

    recipe = recipe_of(members)
    expected = merge(recipe, in_memory(members))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        readers = {}
        for number, adapter in enumerate(members):
            path = Path(name) / str(number)
            files.write(adapter, path)
            readers[adapter.digest] = stack.enter_context(FileReader.open(path))
        for threads in (1, 2):
            merged = merge(recipe, readers, threads=threads)
            files.write(merged, Path(name) / "merged")
            files.write(expected, Path(name) / "expected")
            assert (Path(name) / "merged").read_bytes() == (Path(name) / "expected").read_bytes()

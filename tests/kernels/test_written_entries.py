"""Entries written into a packed weight: exactly those, where it lies, and back to the same bits."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from server.kernels.cpu import packed_numbers, products
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.cpu.packed_numbers import PlaceMap, map_of, numbers_of
from server.kernels.interface import Kernels

SHAPES = [(1, 1), (3, 5), (67, 35), (192, 64), (1000, 48), (64, 1536)]
SHAPE = (656, 48)  # 3 windows, the last of them smaller
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUMEL = SHAPE[0] * SHAPE[1]
CPU = CpuKernels()


def element(dtype: torch.dtype = torch.float32) -> WeightDelta:
    source = torch.Generator().manual_seed(1)
    drawn = torch.randperm(NUMEL, generator=source)[: NUMEL // 20]
    # One long row, and a window without an entry.
    drawn = torch.cat((drawn, torch.arange(48 * 7, 48 * 8)))
    indices = drawn[(drawn // 48 < 220) | (drawn // 48 >= 450)].unique()
    values = torch.randn(len(indices), generator=source).to(dtype)
    return ElementDelta(layer="l", shape=SHAPE, scale=0.7, indices=indices.int(), values=values)


def block(dtype: torch.dtype, size: tuple[int, int], stride: int = 1) -> WeightDelta:
    source = torch.Generator().manual_seed(2)
    num_tiles = NUMEL // (size[0] * size[1])
    tiles = torch.randperm(num_tiles, generator=source)[: num_tiles // 5].sort().values.int()
    values = torch.randn(len(tiles), *size, generator=source).to(dtype)
    return BlockDelta(
        layer="l", shape=SHAPE, block=size, block_index=tiles, values=values, row_stride=stride
    )


MAKERS: dict[str, Callable[[torch.dtype], WeightDelta]] = {
    "element": element,
    "block 16x16": lambda dtype: block(dtype, (16, 16)),
    "block 1x16": lambda dtype: block(dtype, (1, 16)),
    "block 4x4 strided": lambda dtype: block(dtype, (4, 4), stride=4),
}


def random_weight(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def dense(weight: Tensor) -> Tensor:
    return weight.to_dense() if weight.is_mkldnn else weight.clone()


def sha256(weight: Tensor) -> str:
    """Of the memory that is multiplied, padding and all."""
    return hashlib.sha256(numbers_of(weight).tobytes()).hexdigest()


@pytest.mark.parametrize("shape", SHAPES)
def test_map_leads_to_every_number_of_a_pack(shape: tuple[int, int]) -> None:
    weight = random_weight(shape)
    packed = products.pack(weight)
    places = map_of(packed)
    at = torch.from_numpy(places.rows[:, None] + places.columns)
    assert torch.equal(CPU.read(packed, at.flatten()).view(shape), weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_entries_are_what_the_delta_means(name: str, dtype: str, kernels: Kernels) -> None:
    delta = MAKERS[name](DTYPES[dtype])
    operand, packed = kernels.operand(delta), kernels.pack(torch.zeros(SHAPE))
    assert kernels.can_fuse(operand)
    entries = kernels.entries(operand, packed)
    assert len(entries.places) == len(entries.places.unique()) == delta.nnz
    kernels.write(packed, entries.places, entries.scale * entries.values)
    assert torch.equal(dense(packed), delta.dense())


def test_products_without_places_do_not_fuse(kernels: Kernels) -> None:
    delta = LowRankDelta(layer="l", shape=SHAPE, a=torch.ones(2, 48), b=torch.ones(656, 2))
    assert not kernels.can_fuse(kernels.operand(delta))


def test_an_empty_delta_has_no_entries(kernels: Kernels) -> None:
    places, values = torch.zeros(0).int(), torch.zeros(0)
    nothing = ElementDelta(layer="l", shape=SHAPE, indices=places, values=values)
    packed = kernels.pack(random_weight(SHAPE))
    entries = kernels.entries(kernels.operand(nothing), packed)
    kernels.write(packed, entries.places, kernels.read(packed, entries.places))
    assert torch.equal(dense(packed), random_weight(SHAPE))


def test_what_is_written_is_multiplied_where_it_lies_and_undone_to_the_bit(
    kernels: Kernels,
) -> None:
    delta = element()
    packed, x = kernels.pack(random_weight(SHAPE)), torch.randn(5, SHAPE[1])
    before, place = sha256(packed), numbers_of(packed).ctypes.data
    entries = kernels.entries(kernels.operand(delta), packed)
    saved = kernels.read(packed, entries.places)
    kernels.write(packed, entries.places, saved + entries.scale * entries.values)
    fused = kernels.pack(random_weight(SHAPE) + delta.dense())
    assert torch.equal(kernels.linear(x, packed, None), kernels.linear(x, fused, None))
    assert sha256(packed) == sha256(fused) != before
    kernels.write(packed, entries.places, saved)
    assert (sha256(packed), numbers_of(packed).ctypes.data) == (before, place)


@pytest.mark.parametrize("missing", ["the map", "the place of a pack"])
def test_a_weight_that_tells_no_places_is_packed_anew_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "the map":
        monkeypatch.setattr(packed_numbers, "_packed_map", lambda out, width: None)
    else:
        monkeypatch.setattr(packed_numbers, "can_write", lambda: False)
    test_what_is_written_is_multiplied_where_it_lies_and_undone_to_the_bit(CPU)
    test_entries_are_what_the_delta_means("block 16x16", "bf16", CPU)


def test_a_map_that_is_wrong_anywhere_is_not_trusted() -> None:
    found = packed_numbers._learned(67, 35)
    assert found is not None
    packed_rows = products.pack(torch.arange(1.0, 68)[:, None].expand(67, 35))
    packed_columns = products.pack(torch.arange(1.0, 36).expand(67, 35))
    rows, columns = numbers_of(packed_rows), numbers_of(packed_columns)
    assert packed_numbers._holds(found, rows, columns)
    moved = found.rows.copy()
    moved[[5, 6]] = moved[[6, 5]]
    assert not packed_numbers._holds(PlaceMap(moved, found.columns), rows, columns)
    rows = rows.copy()
    rows[columns == 35] = 0
    assert not packed_numbers._holds(found, rows, columns)


def test_a_probe_that_is_not_multiplied_by_means_no_writing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_numbers, "numbers_of", lambda weight: numbers_of(weight).copy())
    assert not packed_numbers.can_write.__wrapped__()
    assert packed_numbers.can_write()

"""The compiled layouts of deltas: weights of several windows, every dtype, groups of every size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)
from server.kernels.cpu import operands
from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.cpu.operands import RUNS, TILES, can_compile, compile_delta, window_rows
from server.kernels.cpu.vectors import LANES, turn
from server.kernels.interface import DeltaBatch

SHAPE = (656, 48)  # 3 windows, the last of them smaller
KERNELS = CpuKernels()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def element(dtype: torch.dtype, source: torch.Generator) -> WeightDelta:
    numel = SHAPE[0] * SHAPE[1]
    indices = torch.randperm(numel, generator=source)[: numel // 20]
    # One long row, and a window without an entry.
    indices = torch.cat((indices, torch.arange(48 * 7, 48 * 8)))
    indices = indices[(indices // 48 < 220) | (indices // 48 >= 450)].unique()
    values = torch.randn(len(indices), generator=source).to(dtype)
    return ElementDelta(layer="l", shape=SHAPE, scale=0.7, indices=indices.int(), values=values)


def block(
    dtype: torch.dtype, source: torch.Generator, size: tuple[int, int], stride: int = 1
) -> WeightDelta:
    num_tiles = SHAPE[0] * SHAPE[1] // (size[0] * size[1])
    tiles = torch.randperm(num_tiles, generator=source)[: num_tiles // 5].sort().values
    values = torch.randn(len(tiles), *size, generator=source).to(dtype)
    return BlockDelta(
        layer="l",
        shape=SHAPE,
        block=size,
        block_index=tiles.int(),
        values=values,
        row_stride=stride,
    )


def low_rank(dtype: torch.dtype, source: torch.Generator) -> WeightDelta:
    a = torch.randn(5, SHAPE[1], generator=source).to(dtype)
    b = torch.randn(SHAPE[0], 5, generator=source).to(dtype)
    return LowRankDelta(layer="l", shape=SHAPE, scale=0.3, a=a, b=b)


MAKERS = {
    "element": element,
    "block 16x16": lambda dtype, source: block(dtype, source, (16, 16)),
    "block 1x16": lambda dtype, source: block(dtype, source, (1, 16)),
    "block 4x6": lambda dtype, source: block(dtype, source, (4, 6)),
    "block 4x4 strided": lambda dtype, source: block(dtype, source, (4, 4), stride=4),
    "low rank": low_rank,
}


@compiled
def vectors_turned(numbers: Any, at: int, to: Any, to_at: int, stride: int) -> None:
    turn(numbers, at, to, to_at, stride)


def products(
    delta: WeightDelta, x: Tensor, counts: Sequence[int], weight: Tensor | None = None
) -> Tensor:
    """Every row of `x` times the delta, in segments of `counts` rows, each an adapter's."""
    offsets = [0]
    for count in counts:
        offsets.append(offsets[-1] + count)
    batch = DeltaBatch(
        operands=[[KERNELS.operand(delta)] for _ in counts],
        offsets=offsets,
        tokens=torch.arange(len(x)),
        coefficients=torch.linspace(-1, 1, len(x)),
    )
    weight = torch.zeros(SHAPE) if weight is None else weight
    return KERNELS.linear(x, KERNELS.pack(weight), batch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_multiplies_as_its_delta_means(name: str, dtype: str) -> None:
    source = torch.Generator().manual_seed(1)
    delta = MAKERS[name](DTYPES[dtype], source)
    assert can_compile(delta)
    x = torch.randn(40, SHAPE[1], generator=source)
    expected = delta.dense().double() @ x.double().T * torch.linspace(-1, 1, 40)
    for counts in ([40], [1] * 40, [17, 23]):
        found = products(delta, x, counts)
        torch.testing.assert_close(found.double(), expected.T, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_row_has_the_same_bits_in_groups_of_any_size(name: str) -> None:
    source = torch.Generator().manual_seed(2)
    delta = MAKERS[name](torch.float32, source)
    x = torch.randn(40, SHAPE[1], generator=source)
    alone = products(delta, x, [1] * 40)
    for counts in ([40], [5, 6, 29], [16, 16, 8], [15, 17, 2, 6]):
        assert torch.equal(products(delta, x, counts), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(37, 29), (272, 16), (1, 70), (90, 133)])
def test_shapes_that_fill_no_vector_multiply_as_meant(shape: tuple[int, int], dtype: str) -> None:
    """Alone and in groups, to the same bits: the ends of rows and of windows are counted once."""
    source = torch.Generator().manual_seed(6)
    numel = shape[0] * shape[1]
    indices = torch.randperm(numel, generator=source)[: numel // 3].sort().values.int()
    values = torch.randn(len(indices), generator=source).to(DTYPES[dtype])
    a, b = torch.randn(3, shape[1]), torch.randn(shape[0], 3)
    bias = torch.randn(shape[0], generator=source).to(DTYPES[dtype])
    x, weight = torch.randn(23, shape[1], generator=source), torch.zeros(shape)
    deltas: list[WeightDelta] = [
        ElementDelta(layer="l", shape=shape, indices=indices, values=values),
        LowRankDelta(layer="l", shape=shape, a=a.to(DTYPES[dtype]), b=b.to(DTYPES[dtype])),
        BiasDelta(layer="l", shape=shape, bias=bias),
    ]
    for delta in deltas:
        together, alone = products(delta, x, [23], weight), products(delta, x, [1] * 23, weight)
        assert torch.equal(together, alone)
        meant = x.double() @ delta.dense().double().T if delta is not deltas[2] else bias.double()
        expected = meant * torch.linspace(-1, 1, 23)[:, None]
        torch.testing.assert_close(together.double(), expected, rtol=1e-5, atol=2e-5)


def test_operands_take_the_bytes_that_were_told() -> None:
    """Low-rank ones have zeros at the ends of B's columns."""
    source = torch.Generator().manual_seed(7)
    a, b = torch.randn(3, 20, generator=source), torch.randn(37, 3, generator=source)
    delta = LowRankDelta(layer="l", shape=(37, 20), a=a, b=b)
    assert KERNELS.operand(delta).num_bytes == KERNELS.operand_bytes(delta)


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 3))
def test_square_is_turned_wherever_it_lies(seed: int, at: int, gap: int) -> None:
    numbers = np.random.default_rng(seed).standard_normal(at + LANES * LANES).astype(np.float32)
    made = np.zeros(at + LANES * (LANES + gap), np.float32)
    vectors_turned(numbers, at, made, at, LANES + gap)
    rows = made[at:].reshape(LANES, LANES + gap)
    assert np.array_equal(rows[:, :LANES], numbers[at:].reshape(LANES, LANES).T)
    assert not rows[:, LANES:].any()
    assert not made[:at].any()


def test_outlier_changes_no_bit_of_another_token() -> None:
    source = torch.Generator().manual_seed(3)
    delta = element(torch.float32, source)
    x = torch.randn(20, SHAPE[1], generator=source)
    outlier = x.clone()
    outlier[3] = torch.nan
    others = [row for row in range(20) if row != 3]
    assert torch.equal(products(delta, outlier, [20])[others], products(delta, x, [20])[others])


@pytest.mark.parametrize(
    ("name", "kind"), [("block 16x16", TILES), ("block 1x16", RUNS), ("element", RUNS)]
)
def test_rows_of_a_tile_share_their_columns(name: str, kind: int) -> None:
    """So that its products read one activation where others gather sixteen."""
    delta = MAKERS[name](torch.bfloat16, torch.Generator().manual_seed(5))
    assert compile_delta(delta).kind == kind


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 256, 257, 576, 960, 3072, 9216])
def test_windows_are_of_nearly_equal_size_and_made_of_whole_slices(rows: int) -> None:
    size = window_rows(rows)
    assert size % 16 == 0
    assert size <= 256
    assert -(-rows // size) == -(-rows // 256)


@pytest.mark.parametrize(("keep_ratio", "most"), [(0.1, 4.2), (0.01, 5.0)])
def test_16_bit_entries_take_few_bytes(keep_ratio: float, most: float) -> None:
    source, shape = torch.Generator().manual_seed(4), (960, 576)
    count = int(keep_ratio * shape[0] * shape[1])
    indices = torch.randperm(shape[0] * shape[1], generator=source)[:count].sort().values
    values = torch.ones(count, dtype=torch.bfloat16)
    delta = ElementDelta(layer="l", shape=shape, indices=indices.int(), values=values)
    assert KERNELS.operand(delta).num_bytes <= most * count


def test_16_bit_blocks_take_few_bytes() -> None:
    source, shape, size = torch.Generator().manual_seed(5), (960, 576), (16, 16)
    tiles = torch.randperm(60 * 36, generator=source)[:216].sort().values
    values = torch.ones(216, *size, dtype=torch.float16)
    delta = BlockDelta(layer="l", shape=shape, block=size, block_index=tiles.int(), values=values)
    assert KERNELS.operand(delta).num_bytes <= 2.2 * values.numel()


def as_defined(delta: ElementDelta) -> tuple[np.ndarray, ...]:
    """The layout of single entries, step by step as `CompiledOperand` says it."""
    (num_rows, width), numbers = delta.shape, delta.values.view(torch.uint16).numpy()
    by_row: list[list[tuple[int, int]]] = [[] for _ in range(num_rows)]
    for flat, number in zip(delta.indices.tolist(), numbers.tolist(), strict=True):
        by_row[flat // width].append((flat % width, number))
    starts, lanes, steps = [0], [], []
    for first in range(0, num_rows, window_rows(num_rows)):
        window = range(first, min(first + window_rows(num_rows), num_rows))
        ranked = sorted(window, key=lambda row: -len(by_row[row]))
        for at in range(0, len(ranked), LANES):
            own = ranked[at : at + LANES]
            longest = len(by_row[own[0]])
            steps += [[by_row[row][step : step + 1] for row in own] for step in range(longest)]
            starts.append(starts[-1] + longest)
            lanes += [row - first for row in own] + [own[-1] - first] * (LANES - len(own))
    padded = [[entry for cell in step for entry in (cell or [(0, 0)])] for step in steps]
    whole = np.array([step + [(0, 0)] * (LANES - len(step)) for step in padded], np.uint16)
    columns, values = np.moveaxis(whole.reshape(-1, LANES, 2), 2, 0)
    return (
        np.array(starts, np.int32),
        np.array(lanes, np.uint8),
        columns.reshape(-1),
        values[:, None, :],
    )


@given(
    shape=st.sampled_from([(1, 1), (15, 3), (16, 16), (17, 40), (257, 5), (656, 9)]),
    data=st.data(),
)
def test_single_entries_are_laid_out_as_defined(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    places = st.integers(0, shape[0] * shape[1] - 1)
    chosen = sorted(data.draw(st.sets(places, min_size=1)))
    numbers = torch.arange(1, len(chosen) + 1, dtype=torch.int16)
    delta = ElementDelta(
        layer="l",
        shape=shape,
        indices=torch.tensor(chosen, dtype=torch.int32),
        values=numbers.view(torch.bfloat16),
    )
    found = compile_delta(delta).arrays
    for own, expected in zip(found, as_defined(delta), strict=True):
        np.testing.assert_array_equal(own, expected)
        assert own.dtype == expected.dtype


@pytest.mark.parametrize("name", ["element", "block 4x6"])
def test_order_of_rows_is_found_once_from_foretelling_to_laying_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta, found = MAKERS[name](torch.bfloat16, torch.Generator().manual_seed(6)), []
    sort, kernels = operands.order_of, CpuKernels()

    def order_of(own: ElementDelta | BlockDelta) -> operands.Order:
        found.append(own)
        return sort(own)

    monkeypatch.setattr(operands, "order_of", order_of)
    told = kernels.operand_bytes(delta)
    assert kernels.operand(delta).num_bytes == told
    assert found == [delta]
    kernels.operand(delta)
    assert found == [delta, delta], "what is laid out is kept for nobody"


def test_order_of_a_delta_that_is_gone_is_gone() -> None:
    orders = operands.Orders()
    delta = MAKERS["element"](torch.float32, torch.Generator().manual_seed(7))
    assert isinstance(delta, ElementDelta)
    orders.tell(delta)
    assert len(orders) == 1
    del delta
    assert len(orders) == 0

"""Identity: what changes a digest, and what does not."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from store_factories import (
    BASE,
    DTYPES,
    GATE_UP,
    MAKERS,
    QKV,
    adapter_of,
    adapters,
    block,
    random,
    random_adapter,
    strided_block,
)

from adapters_store.adapter import BlockDelta, SparseAdapter, WeightDelta
from adapters_store.digest import base_layer_digest


def _first_value_changed(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] += 1
    return changed


@pytest.mark.parametrize("kind", MAKERS)
def test_digest_changes_with_every_tensor_scale_and_layer(kind: str) -> None:
    delta: Any = MAKERS[kind](QKV, torch.float32, random(1))
    digests = [delta.digest, replace(delta, scale=3.0).digest, replace(delta, layer="x").digest]
    for name, value in vars(delta).items():
        if isinstance(value, torch.Tensor):
            digests.append(replace(delta, **{name: _first_value_changed(value)}).digest)
            digests.append(replace(delta, **{name: value.to(torch.float16)}).digest)
    assert len(set(digests)) == len(digests)


def test_digest_changes_with_block_stride_and_shape() -> None:
    delta = block(QKV, torch.float32, random(1))
    variations: list[Callable[[BlockDelta], WeightDelta]] = [
        lambda delta: delta,
        lambda delta: replace(delta, block=(8, 4)),
        lambda delta: replace(delta, row_stride=3),
        lambda delta: replace(delta, shape=(16, 48)),
    ]
    assert len({vary(delta).digest for vary in variations}) == len(variations)


def test_digest_tells_kinds_apart() -> None:
    digests = [make(QKV, torch.float32, random(1)).digest for make in MAKERS.values()]
    assert len(set(digests)) == len(MAKERS)


def test_adapter_digest_names_the_base_weights() -> None:
    adapter = adapter_of(block(QKV, torch.float32, random(1)))
    other = replace(adapter, base={QKV: BASE.layers[GATE_UP].digest})
    assert adapter.digest != other.digest


@given(adapters())
def test_adapter_digest_ignores_notes_base_name_and_order(adapter: SparseAdapter) -> None:
    other = SparseAdapter("renamed", adapter.base, adapter.deltas[::-1], {"task": "none"})
    assert other.digest == adapter.digest


@pytest.mark.parametrize("dtype", DTYPES)
def test_base_digest_depends_on_values_not_on_dtype(dtype: torch.dtype) -> None:
    weight = torch.randn(1030, 8, generator=random(2)).to(dtype)
    assert base_layer_digest(weight) == base_layer_digest(weight.float())
    assert base_layer_digest(weight) != base_layer_digest(_first_value_changed(weight))


def test_base_digest_of_fused_layer_is_that_of_its_concatenated_parts() -> None:
    q, k, v = torch.randn(3, 16, 16, generator=random(3))
    fused = torch.cat([q, k, v])
    assert base_layer_digest(fused) == base_layer_digest(torch.cat([q, k, v]).t().contiguous().t())
    assert base_layer_digest(fused) != base_layer_digest(fused.view(24, 32))


def test_strided_block_lies_where_the_definition_says() -> None:
    """mttl's block (r, c) is flat `(B r + i) * out + B c + j`: rows with a stride of out / in."""
    out, columns = BASE.layers[QKV].shape
    delta = strided_block(QKV, torch.float32, random(4))
    stride, (height, width) = delta.row_stride, delta.block
    expected = torch.zeros(out, columns)
    for tile, values in zip(delta.block_index.tolist(), delta.values, strict=True):
        group, tile_column = divmod(tile, columns // width)
        # Tiles of the permuted matrix: a group of out / stride rows for each residue of the row.
        residue, r = divmod(group * height, out // stride)
        for i in range(height):
            for j in range(width):
                row = stride * (r + i) + residue
                expected[row, tile_column * width + j] = values[i, j]
    assert stride == 3
    assert torch.equal(delta.dense(), expected)


@pytest.mark.parametrize(("rows", "columns"), [(48, 16), (96, 32), (64, 64)])
def test_strided_block_is_the_flat_tile_that_mttl_writes(rows: int, columns: int) -> None:
    """Block (r, c): rows `s (16 r + i) + (16 c) // in`, columns `(16 c) mod in + j`."""
    size, stride = 16, rows // columns
    for r in range(columns // size):
        for c in range(rows // size):
            flat = [(size * r + i) * rows + size * c + j for i in range(size) for j in range(size)]
            row_tile = (size * c // columns) * (columns // size) + r
            tile = row_tile * (columns // size) + (size * c % columns) // size
            values = torch.arange(1.0, size * size + 1).view(1, size, size)
            delta = BlockDelta(
                layer="l",
                shape=(rows, columns),
                block=(size, size),
                block_index=torch.tensor([tile], dtype=torch.int32),
                values=values,
                row_stride=stride,
            )
            expected = torch.zeros(rows * columns)
            expected[flat] = values.flatten()
            assert torch.equal(delta.dense().flatten(), expected)


def test_two_threads_hash_two_deltas_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def digest(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
        both.wait(30)  # fails unless another delta is hashed meanwhile
        return str(header["layer"])

    monkeypatch.setattr("adapters_store.adapter.delta_digest", digest)
    deltas = [random_adapter(seed).deltas[0] for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        hashed = list(pool.map(lambda delta: delta.digest, deltas))
    assert hashed == [delta.layer for delta in deltas]
    assert [delta.digest for delta in deltas] == hashed, "kept: nobody is there to hash with"

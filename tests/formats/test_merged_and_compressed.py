"""Merged checkpoints: base plus adapter, rounded once. Compressed adapters: signs and a scale."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from store_factories import BASE, adapter_of, adapters, random_adapter
from tiny_adapters import make_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapters_store.adapter import ElementDelta, LowRankDelta, SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.exporters.compeft import compress
from adapters_store.files import num_bytes
from adapters_store.validation import Limits, check
from offline.base import Base
from offline.merged import round_once, write_merged


def _in_dtype(base: Path, to: Path, dtype: torch.dtype) -> Path:
    shutil.copytree(base, to)
    for path in to.glob("*.safetensors"):
        state = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        save_file(state, path, {"format": "pt"})
    return to


def _tensors(directory: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors by file."""
    return {path.name: load_file(path) for path in sorted(directory.glob("*.safetensors"))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", ["tiny", "tiny_llama", "tiny_sharded"])
def test_merged_checkpoint_is_base_plus_adapter_in_the_same_files(
    request: pytest.FixtureRequest, tmp_path: Path, which: str, dtype: torch.dtype
) -> None:
    base = Base.open(_in_dtype(request.getfixturevalue(which), tmp_path / "base", dtype))
    adapter = make_adapter(base.identity, "block 16x16", 2)
    write_merged(base, adapter, -0.7, tmp_path / "merged")
    merged = Base.open(tmp_path / "merged")
    changes = {delta.layer: delta.dense().double() for delta in adapter.deltas}
    for layer in base.shapes:
        exact = base.weight(layer).double() - 0.7 * changes.get(layer, torch.zeros(()))
        assert torch.equal(merged.weight(layer), round_once(exact, dtype).float())
    before, after = _tensors(base.directory), _tensors(merged.directory)
    assert before.keys() == after.keys()
    for file, tensors in before.items():
        assert {n: (t.dtype, t.shape) for n, t in tensors.items()} == {
            n: (t.dtype, t.shape) for n, t in after[file].items()
        }
    names = {path.name for path in base.directory.iterdir()}
    assert {path.name for path in merged.directory.iterdir()} == names


def test_transformers_loads_a_merged_checkpoint(tiny_sharded: Path, tmp_path: Path) -> None:
    base = Base.open(tiny_sharded)
    write_merged(base, make_adapter(base.identity, "low_rank", 2), 1.0, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    layer = "model.layers.0.self_attn.qkv_proj"
    assert torch.equal(
        model.get_submodule(layer).weight, Base.open(tmp_path / "merged").weight(layer)
    )
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1


def test_bias_and_tied_head_are_refused(tiny: Path, tiny_llama: Path, tmp_path: Path) -> None:
    base, tied = Base.open(tiny), Base.open(tiny_llama)
    with pytest.raises(AdapterRefused, match="qkv_proj: the base has no bias"):
        write_merged(base, make_adapter(base.identity, "bias", 2), 1.0, tmp_path / "m")
    with pytest.raises(AdapterRefused, match="lm_head: is the embedding too"):
        write_merged(tied, make_adapter(tied.identity, layers=["lm_head"]), 1.0, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_rounding_goes_to_the_nearest_number(value: float, dtype: torch.dtype) -> None:
    """In exact arithmetic: no neighbour is nearer than what is chosen."""
    found = round_once(torch.tensor([value], dtype=torch.float64), dtype)
    if not found.isfinite():
        assert abs(value) >= 65520  # float16 ends there
        return
    bits = {2: torch.int16, 4: torch.int32}[found.itemsize]
    neighbours = [(found.view(bits) + step).view(dtype) for step in (-1, 1)]
    error = abs(Fraction(float(found)) - Fraction(value))
    for other in neighbours:
        if other.isfinite():
            assert error <= abs(Fraction(float(other)) - Fraction(value))


def test_rounding_twice_would_be_wrong() -> None:
    """Just above the middle of two bf16 numbers: fp32 in between makes it the middle."""
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert float(value.to(torch.bfloat16)) == 1.0
    assert float(round_once(value, torch.bfloat16)) == 1 + 2**-7


# ComPEFT


@pytest.mark.parametrize("per_tensor", [False, True])
@given(adapter=adapters())
def test_compressed_values_are_signs_and_fit_the_base(
    per_tensor: bool, adapter: SparseAdapter
) -> None:
    compression = compress(adapter, per_tensor=per_tensor)
    check(compression.adapter, BASE, Limits(1 << 20, 1 << 20))
    assert compression.adapter.nnz == adapter.nnz
    for delta in compression.adapter.deltas:
        floats = [t for t in delta.tensors.values() if t.is_floating_point()]
        assert {t.dtype for t in floats} == {torch.float16}
        assert all(float(value) in (-1, 0, 1) for t in floats for value in t.unique())
    assert 0 <= compression.error < 2


def test_scale_is_that_of_least_error() -> None:
    adapter = random_adapter()
    [before], [after] = adapter.deltas, compress(adapter).adapter.deltas
    assert isinstance(after, ElementDelta)
    whole = before.dense()

    def error(scale: float) -> float:
        return float((whole - whole.sign() * scale).square()[whole != 0].sum())

    assert error(after.scale) < min(error(after.scale * 1.01), error(after.scale * 0.99))
    assert after.scale == pytest.approx(float(whole[whole != 0].abs().mean()), rel=1e-6)


def test_reported_error_is_that_of_the_dense_change() -> None:
    adapter = random_adapter(kind="low rank")
    compression = compress(adapter)
    [before], [after] = adapter.deltas, compression.adapter.deltas
    lost = (
        before.dense().double() - after.dense().double()
    ).norm() / before.dense().double().norm()
    assert compression.error == pytest.approx(float(lost), rel=1e-12)


def test_one_scale_for_all_or_one_for_each() -> None:
    first, second = random_adapter(1).deltas[0], random_adapter(2, "low rank").deltas[0]
    assert isinstance(second, LowRankDelta)
    small = ElementDelta(
        layer="layers.1.down",
        shape=(16, 24),
        indices=torch.tensor([0, 3], dtype=torch.int32),
        values=torch.tensor([0.01, -0.01]),
    )
    common = compress(adapter_of(first, small)).adapter.deltas
    apart = compress(adapter_of(first, small), per_tensor=True).adapter.deltas
    assert len({delta.scale for delta in common}) == 1
    assert apart[1].scale == pytest.approx(0.01)


def test_compressed_file_is_smaller_and_zeros_stay() -> None:
    adapter = random_adapter()
    assert num_bytes(compress(adapter).adapter) < num_bytes(adapter)
    [delta] = adapter.deltas
    assert isinstance(delta, ElementDelta)
    delta.values[0] = 0
    [compressed] = compress(adapter).adapter.deltas
    assert isinstance(compressed, ElementDelta)
    assert compressed.values[0] == 0


def test_nothing_but_zeros_has_no_scale() -> None:
    adapter = random_adapter()
    adapter.deltas[0].tensors["values"].zero_()
    with pytest.raises(AdapterRefused, match="every value is zero"):
        compress(adapter)

"""Fine-tuned minus base: what is kept, how much of it, and what cannot be kept."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_adapters import QKV, make_adapter
from torch import Tensor

from adapters_store.errors import AdapterRefused
from adapters_store.validation import Limits, check
from offline.base import Base
from offline.choosing import cut_for_all, cut_for_layer
from offline.extraction import (
    Change,
    Keeping,
    as_adapter,
    extract_entries,
    extract_low_rank,
)
from offline.merged import write_merged

LIMITS = Limits(1 << 40, 1 << 40)
KINDS = {"element": "element", "row_block": "block 1x16", "block": "block 16x16"}


@pytest.fixture
def change(tiny: Path, tmp_path: Path) -> Change:
    """Every linear entry is moved a little, by a known amount."""
    return Change(Base.open(tiny), Base.open(_moved(tiny, tmp_path / "tuned", _noise)))


def _noise(name: str, tensor: Tensor) -> Tensor:
    if not name.endswith("_proj.weight"):
        return tensor
    source = torch.Generator().manual_seed(len(name) + tensor.numel())
    return tensor + torch.randn(tensor.shape, generator=source) * 0.01


def _moved(base: Path, to: Path, move: Callable[[str, Tensor], Tensor]) -> Path:
    shutil.copytree(base, to)
    state = load_file(to / "model.safetensors")
    moved = {name: move(name, tensor).clone() for name, tensor in state.items()}
    save_file(moved, to / "model.safetensors", {"format": "pt"})
    return to


def layers_of(change: Change) -> list[str]:
    return sorted(name for name in change.base.shapes if name.endswith("_proj"))


@pytest.mark.parametrize("kind", KINDS)
def test_exact_extract_of_a_merged_adapter_is_the_adapter(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    base = Base.open(tiny)
    adapter = make_adapter(base.identity, KINDS[kind], 1)
    write_merged(base, adapter, 1.0, tmp_path / "merged")
    tuned = Base.open(tmp_path / "merged")
    extracts = extract_entries(Change(base, tuned), sorted(base.shapes), Keeping(kind, None))
    found = as_adapter(base, extracts, {})
    check(found, base.identity, LIMITS)
    assert found.layers == adapter.layers
    for before, after in zip(adapter.deltas, found.deltas, strict=True):
        assert torch.equal(base.weight(before.layer) + after.dense(), tuned.weight(before.layer))
        assert torch.allclose(before.dense(), after.dense(), rtol=0, atol=1e-6)
    assert all(extract.kept == extract.energy for extract in extracts)
    assert Change(base, tuned).elsewhere() == []


@pytest.mark.parametrize("of_model", [False, True], ids=["layer", "model"])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_exact_and_energy_is_of_what_is_kept(
    change: Change, kind: str, of_model: bool
) -> None:
    tile = {"element": 1, "row_block": 16, "block": 256}[kind]
    layers = layers_of(change)
    extracts = extract_entries(change, layers, Keeping(kind, 0.1, of_model))
    sizes = {layer: change.of(layer).numel() for layer in layers}
    wanted = {layer: int(size * 0.1) // tile * tile for layer, size in sizes.items()}
    kept = {x.layer: x.delta.nnz if x.delta else 0 for x in extracts}
    assert sum(kept.values()) == sum(wanted.values())
    assert of_model or kept == wanted
    for x in extracts:
        moved = change.of(x.layer).double()
        assert x.energy == pytest.approx(float(moved.square().sum()), rel=1e-12)
        if x.delta:
            assert x.kept == pytest.approx(float(x.delta.dense().double().square().sum()), rel=1e-6)


def test_kept_entries_are_the_largest(change: Change) -> None:
    layers = layers_of(change)
    extracts = extract_entries(change, layers, Keeping("element", 0.05, of_model=True))
    kept, left = [], []
    for x in extracts:
        assert x.delta is not None
        is_kept = x.delta.dense() != 0
        moved = change.of(x.layer)
        assert torch.equal(x.delta.dense()[is_kept], moved[is_kept])
        kept.append(moved[is_kept].abs())
        left.append(moved[~is_kept].abs())
    assert torch.cat(kept).min() >= torch.cat(left).max()


def test_low_rank_is_the_best_of_its_rank(change: Change) -> None:
    [found] = extract_low_rank(change, [QKV], 5)
    moved = change.of(QKV).double()
    u, sigma, vh = torch.linalg.svd(moved, full_matrices=False)
    best = (u[:, :5] * sigma[:5]) @ vh[:5]
    assert found.delta is not None
    assert torch.allclose(found.delta.dense().double(), best, rtol=0, atol=1e-7)
    lost = float((moved - best).square().sum())
    assert found.energy - found.kept == pytest.approx(lost, rel=1e-9)


def test_full_rank_is_the_change_itself(change: Change) -> None:
    [found] = extract_low_rank(change, [QKV], 10_000)
    assert found.delta is not None
    assert torch.allclose(found.delta.dense(), change.of(QKV), rtol=0, atol=1e-6)
    assert found.kept == found.energy


def test_unchanged_layers_give_nothing(tiny: Path) -> None:
    same = Change(Base.open(tiny), Base.open(tiny))
    found = [*extract_low_rank(same, [QKV], 2), *extract_entries(same, [QKV], Keeping("block", 1))]
    assert [extract.delta for extract in found] == [None, None]
    with pytest.raises(AdapterRefused, match="nothing to keep"):
        as_adapter(same.base, found, {})


def test_changes_outside_of_linear_layers_are_named(tiny: Path, tmp_path: Path) -> None:
    moved = _moved(tiny, tmp_path / "t", lambda n, t: t + 1 if "norm" in n or "embed" in n else t)
    elsewhere = Change(Base.open(tiny), Base.open(moved)).elsewhere()
    assert "model.embed_tokens.weight" in elsewhere
    assert "model.norm.weight" in elsewhere
    assert len(elsewhere) == 6


def test_split_and_sharded_checkpoints_are_read_as_fused(
    tiny_llama: Path, tiny_sharded: Path, tiny: Path, tmp_path: Path
) -> None:
    base = Base.open(tiny_llama)
    fused = base.weight(QKV)
    state = load_file(tiny_llama / "model.safetensors")
    parts = [state[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(fused, torch.cat(parts))
    assert torch.equal(base.weight("lm_head"), state["model.embed_tokens.weight"])
    moved = Base.open(_moved(tiny_llama, tmp_path / "t", _noise))
    [found] = extract_entries(Change(base, moved), [QKV], Keeping("element", None))
    assert found.delta is not None
    assert torch.allclose(found.delta.dense(), moved.weight(QKV) - fused)
    assert Change(Base.open(tiny), Base.open(tiny_sharded)).elsewhere() == []


def test_checkpoint_of_other_shapes_is_refused(tiny: Path, tiny_llama: Path) -> None:
    with pytest.raises(AdapterRefused, match="other names or shapes"):
        Change(Base.open(tiny), Base.open(tiny_llama))


# Which are chosen


def _ids(scores: list[float], count: int) -> list[int]:
    return cut_for_layer({"a": count})("a", torch.tensor(scores, dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    ("scores", "count", "chosen"),
    [
        ([], 1, []),
        ([0.0, 0.0], 2, []),
        ([1.0, 2.0], 0, []),
        ([1.0, 2.0, 2.0, 2.0], 2, [1, 2]),
        ([2.0, 1.0, 2.0, 1.0, 1.0], 3, [0, 1, 2]),
        ([1.0, 0.0, 3.0], 3, [0, 2]),
    ],
)
def test_of_equal_scores_the_first_are_chosen(
    scores: list[float], count: int, chosen: list[int]
) -> None:
    assert _ids(scores, count) == chosen


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=4), st.integers(0, 20)
)
def test_cut_for_all_is_a_sort_of_all(layers: list[list[int]], count: int) -> None:
    """Against Python's stable sort, over layers with many equal scores."""
    tensors = [torch.tensor(scores, dtype=torch.float64) for scores in layers]
    places = [(-s, i, j) for i, scores in enumerate(layers) for j, s in enumerate(scores) if s]
    expected = sorted((i, j) for _, i, j in sorted(places)[:count])
    cut = cut_for_all(tensors, count)
    found = [(i, j) for i, scores in enumerate(tensors) for j in cut(str(i), scores).tolist()]
    assert found == expected

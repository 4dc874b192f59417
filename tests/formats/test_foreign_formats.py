"""Files of other projects become exactly the change and the mask that their writers meant."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from formats.foreign_files import (
    BASE,
    DOWN,
    OUTPUT,
    QKV,
    QKV_1,
    SHAPES,
    TARGET,
    Change,
    Changes,
    base_weight,
    diablo_change,
    learned,
    mttl_block_mask,
    tile_mask,
    write_diablo,
    write_lt_sft,
    write_mttl,
    write_mttl_dense,
    write_mttl_rows,
    write_mttl_trainer,
    write_spiel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters_store import files
from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, SparseAdapter, WeightDelta
from adapters_store.converters.convert import READERS, convert
from adapters_store.converters.parts import Conversion
from adapters_store.exporters.peft_shira import own_entries
from adapters_store.validation import Limits, check

Write = Callable[[Path, Changes], Path]
WRITERS: dict[str, tuple[str, Write]] = {
    "mttl": ("mttl", write_mttl),
    "mttl, masks without shapes": ("mttl", lambda d, c: write_mttl(d, c, keyed=False)),
    "mttl, dense and a mask file": ("mttl", write_mttl_dense),
    "mttl, trainer": ("mttl", lambda d, c: write_mttl_trainer(d, c, {})),
    "mttl, rows": ("mttl", write_mttl_rows),
    "SpIEL": ("spiel", write_spiel),
    "LT-SFT": ("lt-sft", write_lt_sft),
}


def converted(source: Path, kind: str) -> Conversion:
    """The conversion, valid, and the same after a round trip through a file."""
    conversion = convert(source, kind, TARGET)
    check(conversion.adapter, BASE, Limits(1 << 20, 1 << 20))
    path = (source if source.is_dir() else source.parent) / "out.safetensors"
    files.write(conversion.adapter, path)
    assert files.read(path).digest == conversion.adapter.digest
    return conversion


def weight_delta(adapter: SparseAdapter, layer: str) -> WeightDelta:
    [delta] = [d for d in adapter.deltas if d.layer == layer and not isinstance(d, BiasDelta)]
    return delta


def assert_is(delta: WeightDelta, change: Change) -> None:
    """The same entries, zeros included, with the same values to the bit."""
    flat, values = own_entries(delta)
    assert torch.equal(flat, change.mask.flatten().nonzero().flatten())
    assert torch.equal(values, change.weight.flatten()[flat])


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, int]) -> Tensor:
    """Entries, runs, tiles, mttl's blocks, or nothing at all."""
    kind = draw(st.sampled_from(["entries", "runs", "tiles", "mttl blocks", "none"]))
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    block = {"runs": (1, 16), "tiles": (16, 16)}.get(kind, (1, 1))
    if kind == "mttl blocks" and not (shape[0] % 16 or shape[1] % 16):
        chosen = torch.rand(shape[1] // 16, shape[0] // 16, generator=source) < 0.3
        return mttl_block_mask(shape, [(int(r), int(c)) for r, c in chosen.nonzero()])
    if kind == "none" or shape[0] % block[0] or shape[1] % block[1]:
        return torch.zeros(shape, dtype=torch.bool)
    chosen = torch.rand(shape[0] // block[0], shape[1] // block[1], generator=source) < 0.2
    return tile_mask(shape, [(int(r), int(c)) for r, c in chosen.nonzero()], block)


@st.composite
def changes(draw: st.DrawFn) -> Changes:
    layers = draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=3))
    seed = draw(st.integers(0, 1000))
    return {layer: learned(draw(masks(SHAPES[layer])), seed) for layer in sorted(layers)}


@pytest.mark.parametrize("case", WRITERS)
@given(changes=changes())
@settings(max_examples=25, deadline=None)
def test_conversion_is_the_change_that_was_written(case: str, changes: Changes) -> None:
    kind, write = WRITERS[case]
    meant = {layer: change for layer, change in changes.items() if change.mask.any()}
    with tempfile.TemporaryDirectory() as directory:
        source = write(Path(directory), changes)
        conversion = convert(source, kind, TARGET)
        if meant:
            assert conversion.adapter.digest == converted(source, kind).adapter.digest
    assert set(conversion.adapter.layers) == meant.keys()
    assert conversion.remarks.keys() >= changes.keys()
    for layer, change in meant.items():
        assert_is(weight_delta(conversion.adapter, layer), change)


FORMS: dict[str, tuple[str, Tensor, tuple[tuple[int, int], int] | None]] = {
    "mttl blocks": (QKV, mttl_block_mask((96, 32), [(0, 0), (1, 5)]), ((16, 16), 3)),
    "mttl blocks, square": (OUTPUT, mttl_block_mask((32, 32), [(0, 1)]), ((16, 16), 1)),
    "mttl blocks, wide": (DOWN, mttl_block_mask((32, 48), [(0, 0), (2, 1)]), ((1, 16), 1)),
    "tiles": (QKV, tile_mask((96, 32), [(0, 0), (4, 1)], (16, 16)), ((16, 16), 1)),
    "runs": (QKV, tile_mask((96, 32), [(0, 0), (40, 1)], (1, 16)), ((1, 16), 1)),
    "one entry short": (QKV, tile_mask((96, 32), [(5, 0)], (1, 15)), None),
    "no tiling": ("lm_head", torch.ones(20, 32, dtype=torch.bool), ((1, 16), 1)),
}


@pytest.mark.parametrize("case", FORMS)
def test_largest_form_that_holds_just_the_mask_is_chosen(tmp_path: Path, case: str) -> None:
    layer, mask, form = FORMS[case]
    conversion = converted(write_mttl(tmp_path, {layer: learned(mask, 1)}), "mttl")
    delta = weight_delta(conversion.adapter, layer)
    if form is None:
        assert isinstance(delta, ElementDelta)
        assert "0 of" in conversion.remarks[layer]
    else:
        assert isinstance(delta, BlockDelta)
        assert (delta.block, delta.row_stride) == form
        assert "are full" in conversion.remarks[layer]


def test_block_mode_of_rows_is_read_in_the_order_of_rows(tmp_path: Path) -> None:
    change = learned(tile_mask((96, 32), [(0, 0), (0, 1), (3, 1)], (16, 16)), 3)
    conversion = converted(write_mttl_rows(tmp_path, {QKV: change}, blocks=True), "mttl")
    delta = weight_delta(conversion.adapter, QKV)
    assert isinstance(delta, BlockDelta)
    assert_is(delta, change)


def test_bias_of_the_trainer_is_kept_and_one_of_zeros_is_not(tmp_path: Path) -> None:
    change = learned(tile_mask((96, 32), [(1, 1)], (16, 16)), 3)
    bias = torch.arange(96.0)
    source = write_mttl_trainer(tmp_path, {QKV: change, QKV_1: change}, {QKV_1: bias})
    conversion = converted(source, "mttl")
    [kept] = [delta for delta in conversion.adapter.deltas if isinstance(delta, BiasDelta)]
    assert (kept.layer, kept.bias.tolist()) == (QKV_1, bias.tolist())
    assert conversion.remarks[f"{QKV} (bias)"] == "nothing: all zeros"


def test_split_modules_become_rows_of_the_fused_layer(tmp_path: Path) -> None:
    parts = {part: learned(torch.rand(32, 32) < 0.2, seed) for seed, part in enumerate("qkv")}
    named = {f"model.layers.0.self_attn.{part}_proj": change for part, change in parts.items()}
    weight = torch.cat([change.weight for change in parts.values()])
    whole = Change(weight, torch.cat([change.mask for change in parts.values()]))
    for write, kind in ((write_spiel, "spiel"), (write_lt_sft, "lt-sft"), (write_mttl, "mttl")):
        assert_is(weight_delta(converted(write(tmp_path, named), kind).adapter, QKV), whole)


def test_replaced_tensors_become_differences_to_the_base(tmp_path: Path) -> None:
    whole = base_weight(OUTPUT).clone()
    whole[3, 5] += 1
    whole[30, 0] = 0
    delta = weight_delta(
        converted(write_lt_sft(tmp_path, {}, {OUTPUT: whole}), "lt-sft").adapter, OUTPUT
    )
    assert delta.nnz == 2
    assert torch.equal(base_weight(OUTPUT) + delta.dense(), whole)


@pytest.mark.parametrize(
    ("layer", "count", "kind"), [(QKV, 2, "block"), (OUTPUT, 1, "block"), (DOWN, 4, "element")]
)
def test_block_diagonals_are_transposed(tmp_path: Path, layer: str, count: int, kind: str) -> None:
    out, columns = SHAPES[layer]
    blocks = torch.randn(count, columns // count, out // count)
    adapter = converted(write_diablo(tmp_path / "d.bin", {layer: blocks}), "diablo").adapter
    delta = weight_delta(adapter, layer)
    assert torch.equal(delta.dense(), diablo_change(blocks))
    assert (delta.kind, delta.nnz) == (kind, blocks.numel())


def test_columns_are_changed_whole(tmp_path: Path) -> None:
    index, changes = torch.tensor([30, 2, 11]), torch.randn(96, 3)
    torch.save({f"{QKV}.paca_delta": changes, f"{QKV}.paca_indices": index}, tmp_path / "p.bin")
    expected = torch.zeros(96, 32)
    for column, place in enumerate(index.tolist()):
        expected[:, place] = changes[:, column]
    delta = weight_delta(converted(tmp_path / "p.bin", "paca").adapter, QKV)
    assert torch.equal(delta.dense(), expected)
    assert delta.nnz == 96 * 3


def test_columns_of_the_authors_code_replace_those_of_the_base(tmp_path: Path) -> None:
    index, tuned = torch.tensor([4, 1]), torch.randn(96, 2)
    state = {"paca_w": tuned / 2, "paca_indices": index}
    named = {f"base_model.model.{QKV}.{name}": tensor for name, tensor in state.items()}
    torch.save(named, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text('{"paca_alpha": 4, "r": 2}')
    delta = weight_delta(converted(tmp_path, "paca").adapter, QKV)
    merged = base_weight(QKV) + delta.dense()
    assert torch.allclose(merged[:, index], tuned, rtol=0, atol=1e-6)
    assert delta.nnz == 96 * 2


def test_columns_are_chosen_row_by_row(tmp_path: Path) -> None:
    index = torch.stack([torch.randperm(32)[:3] for _ in range(96)])
    changes = torch.randn(96, 3)
    torch.save({f"{QKV}.index": index.int(), f"{QKV}.values": changes}, tmp_path / "n.pt")
    expected = torch.zeros(96, 32)
    for row in range(96):
        for k in range(3):
            expected[row, index[row, k]] = changes[row, k]
    delta = weight_delta(converted(tmp_path / "n.pt", "neuroada").adapter, QKV)
    assert torch.equal(delta.dense(), expected)


def test_every_format_has_a_test_here() -> None:
    assert {kind for kind, _ in WRITERS.values()} | {"diablo", "paca", "neuroada"} == set(READERS)

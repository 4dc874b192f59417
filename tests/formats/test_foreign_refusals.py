"""Foreign files that cannot be interpreted for sure are refused, by name; none runs code."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formats.foreign_files import (
    DOWN,
    OUTPUT,
    QKV,
    QKV_1,
    TARGET,
    learned,
    write_lt_sft,
    write_mttl,
    write_mttl_mask,
    write_mttl_rows,
    write_mttl_trainer,
    write_spiel,
)

from adapters_store.adapter import BaseIdentity, BaseLayer
from adapters_store.converters.convert import convert
from adapters_store.converters.parts import Target
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import Layout

CHANGE = learned(torch.rand(96, 32, generator=torch.Generator().manual_seed(2)) < 0.1, 4)
OTHER = learned(torch.rand(96, 32, generator=torch.Generator().manual_seed(3)) < 0.2, 4)


class Trap:
    """Runs code where a pickle is read carelessly."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def refusal(source: Path, kind: str, target: Target = TARGET, mask: Path | None = None) -> str:
    with pytest.raises(AdapterRefused) as caught:
        convert(source, kind, target, mask)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["mttl", "spiel", "lt-sft", "diablo", "paca", "neuroada"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "ran"
    torch.save({"weight": Trap(marker)}, tmp_path / "file.bin")
    assert "it would run getattr, which is refused" in refusal(tmp_path / "file.bin", kind)
    assert not marker.exists()


def test_code_in_a_mask_file_is_not_run(tmp_path: Path) -> None:
    write_mttl(tmp_path, {QKV: CHANGE})
    np.savez(tmp_path / "task_mask.npz", arr=np.array(Trap(tmp_path / "ran"), dtype=object))
    assert "it would run" in refusal(tmp_path, "mttl")
    assert not (tmp_path / "ran").exists()


def test_code_in_a_tensor_of_a_mask_file_is_not_run(tmp_path: Path) -> None:
    """A tensor in an ordinary pickle brings a pickle of its own."""

    class Nested:
        def __reduce__(self) -> Any:
            inner = pickle.dumps(Trap(tmp_path / "ran"), protocol=2)
            return torch.storage._load_from_bytes, (inner,)

    write_mttl(tmp_path, {QKV: CHANGE})
    np.savez(tmp_path / "task_mask.npz", arr=np.array(Nested(), dtype=object))
    refusal(tmp_path, "mttl")
    assert not (tmp_path / "ran").exists()


def test_masks_as_tensors_are_read(tmp_path: Path) -> None:
    write_mttl(tmp_path, {QKV: CHANGE})
    name = f"model.{QKV}.sparse_layer"
    content = {"mask": {name: CHANGE.mask.nonzero()}, "mask_shape": {name: CHANGE.mask.shape}}
    np.savez(tmp_path / "task_mask.npz", arr=content)  # type: ignore[arg-type]
    [delta] = convert(tmp_path, "mttl", TARGET).adapter.deltas
    assert torch.equal(delta.dense(), CHANGE.weight)


def _lightning(path: Path) -> Path:
    return write_mttl_trainer(path, {QKV: CHANGE}, {}, with_mask=False)


def _values_alone(path: Path) -> Path:
    write_mttl(path, {QKV: CHANGE})
    (path / "task_mask.npz").unlink()
    return path


def _mask_of_another_task(path: Path) -> Path:
    write_mttl(path, {QKV: CHANGE})
    write_mttl_mask(path / "task_mask.npz", {QKV: OTHER}, keyed=True)
    return path


def _mask_of_another_layer(path: Path) -> Path:
    write_mttl(path, {QKV: CHANGE})
    write_mttl_mask(path / "task_mask.npz", {QKV: CHANGE, QKV_1: OTHER}, keyed=True)
    return path


def _two_masks(path: Path) -> Path:
    write_mttl(path, {QKV: CHANGE})
    write_mttl_mask(path / "second_mask.npz", {QKV: OTHER}, keyed=True)
    return path


def _mask(path: Path, places: Any, shape: tuple[int, ...] = (96, 32)) -> Path:
    write_mttl(path, {QKV: CHANGE})
    name = f"model.{QKV}.sparse_layer"
    content = {"mask": {name: places}, "mask_shape": {name: torch.Size(shape)}}
    np.savez(path / "task_mask.npz", arr=content)  # type: ignore[arg-type]
    return path


def _state(path: Path, source: Path, **changes: Any) -> Path:
    """The file with some tensors replaced by name's end, None to leave out."""
    state = torch.load(source)
    for end, tensor in changes.items():
        [name] = [name for name in state if name.endswith(f".{end}")]
        del state[name]
        if tensor is not None:
            state[name] = tensor
    torch.save(state, path / "changed.ckpt")
    return path / "changed.ckpt"


def _trainer(path: Path, **changes: Any) -> Path:
    return _state(path, write_mttl_trainer(path, {QKV: CHANGE}, {}), **changes)


def _rows(path: Path, **changes: Any) -> Path:
    return _state(path, write_mttl_rows(path, {QKV: CHANGE}), **changes)


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path / "file.bin")
    return path / "file.bin"


def _spiel(path: Path, indices: Any, values: Any = (1.0, 2.0), module: str = QKV) -> Path:
    stem = f"{module}.sft_delta.default"
    state = {f"{stem}.indices": torch.tensor(indices), f"{stem}.values": torch.tensor(values)}
    return _saved(path, state)


def _lt_sft(path: Path, steps: Any, size: Any = (96, 32), name: str = f"{QKV}.weight") -> Path:
    encoding = {"size": size, "index_steps": np.array(steps), "values": torch.ones(len(steps))}
    return _saved(path, {"diffs": {name: encoding}, "abs": {}})


PLACES = CHANGE.mask.nonzero().numpy()
CASES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "Lightning's": ("mttl", _lightning, f"{QKV}: a dense weight without its mask, as Lightning"),
    "values alone": ("mttl", _values_alone, "no *_mask.npz says where they belong"),
    "another task's mask": ("mttl", _mask_of_another_task, " places"),
    "another layer's mask": ("mttl", _mask_of_another_layer, f"{QKV_1}: has a mask, but no weight"),
    "two masks": ("mttl", _two_masks, "second_mask.npz, task_mask.npz: name the one to use"),
    "mask backwards": ("mttl", lambda p: _mask(p, PLACES[::-1].copy()), "not in row-major order"),
    "mask outside": ("mttl", lambda p: _mask(p, PLACES + 90), "places outside [96, 32]"),
    "mask flat": ("mttl", lambda p: _mask(p, PLACES[:, 0]), "not [nnz, 2]"),
    "mask shape": ("mttl", lambda p: _mask(p, PLACES, (32, 96)), "mask_shape (32, 96), the base"),
    "mask of thirds": ("mttl", lambda p: _trainer(p, weight_mask=torch.rand(96, 32)), "0 and 1"),
    "mask missing": ("mttl", lambda p: _trainer(p, weight_mask=None), "without its mask"),
    "weight transposed": (
        "mttl",
        lambda p: _trainer(p, weight=torch.ones(32, 96)),
        "weight: shape",
    ),
    "weight missing": ("mttl", lambda p: _trainer(p, weight=None), f"{QKV}: has no weight"),
    "bias short": ("mttl", lambda p: _trainer(p, bias=torch.ones(3)), "bias: shape [3]"),
    "no weight file": ("mttl", lambda p: p, "holds none of *.ckpt, mttl_weights.bin"),
    "unknown tensor": ("mttl", lambda p: _saved(p, {"x.lora_a": torch.ones(2)}), "x.lora_a: is no"),
    "unknown layer": (
        "mttl",
        lambda p: _saved(p, {"x.sparse_layer.weight": torch.ones(2)}),
        "x: is no linear layer of the base",
    ),
    "not tensors": ("mttl", lambda p: _saved(p, {"a": 3}), "a is not a tensor"),
    "not by name": ("mttl", lambda p: _saved(p, [3]), "expected a dict by name"),
    "rows: offsets": ("mttl", lambda p: _rows(p, row_offs=torch.arange(97)), "do not ascend"),
    "rows: none": ("mttl", lambda p: _rows(p, row_offs=None), "row_offs: missing"),
    "rows: wrapped": (
        "mttl",
        lambda p: _rows(p, col_idx=torch.full((len(CHANGE.places),), -5, dtype=torch.int16)),
        "columns outside [0, 32)",
    ),
    "rows: repeated": (
        "mttl",
        lambda p: _rows(p, col_idx=torch.zeros(len(CHANGE.places), dtype=torch.int16)),
        "is there twice",
    ),
    "SpIEL: repeated": ("spiel", lambda p: _spiel(p, [5, 5]), "(row 0, column 5) is there twice"),
    "SpIEL: outside": ("spiel", lambda p: _spiel(p, [0, 3072]), "index 3072 is outside [0, 3072)"),
    "SpIEL: wrapped": ("spiel", lambda p: _spiel(p, [-4, 0]), "index -4 is outside"),
    "SpIEL: lengths": ("spiel", lambda p: _spiel(p, [1, 2, 3]), "values: shape [2], expected [3]"),
    "SpIEL: head": ("spiel", lambda p: _spiel(p, [1, 2], module="head"), "head: is no linear"),
    "SpIEL: half": (
        "spiel",
        lambda p: _saved(p, {f"{QKV}.sft_delta.a.values": torch.ones(1)}),
        "has only values",
    ),
    "SpIEL: several": (
        "spiel",
        lambda p: _saved(p, {f"{QKV}.sft_delta.{a}.values": torch.ones(1) for a in "ab"}),
        "several adapters",
    ),
    "LT-SFT: size": ("lt-sft", lambda p: _lt_sft(p, [1], (32, 96)), "size (32, 96), the base has"),
    "LT-SFT: steps": ("lt-sft", lambda p: _lt_sft(p, [5, 0]), "do not ascend"),
    "LT-SFT: outside": ("lt-sft", lambda p: _lt_sft(p, [3072]), "do not ascend inside [0, 3072)"),
    "LT-SFT: norm": ("lt-sft", lambda p: _lt_sft(p, [1], name="norm.weight"), "norm: is no linear"),
    "LT-SFT: scale": ("lt-sft", lambda p: _lt_sft(p, [1], name=f"{QKV}.s"), "neither a weight nor"),
    "LT-SFT: other keys": ("lt-sft", lambda p: _saved(p, {"body": {}}), "has body; expected diffs"),
    "DiaBlo: flat": (
        "diablo",
        lambda p: _saved(p, {f"{QKV}.D": torch.ones(2, 3)}),
        "expected blocks",
    ),
    "DiaBlo: transposed": (
        "diablo",
        lambda p: _saved(p, {f"{QKV}.D": torch.ones(2, 48, 16)}),
        "expected [2, 16, 48]",
    ),
    "DiaBlo: fifths": ("diablo", lambda p: _saved(p, {f"{QKV}.D": torch.ones(5, 6, 19)}), "divide"),
    "DiaBlo: unknown": (
        "diablo",
        lambda p: _saved(p, {"x.y": torch.ones(1)}),
        "x.y: belongs to no",
    ),
    "PaCA: repeated": (
        "paca",
        lambda p: _saved(p, {f"{QKV}.w": torch.ones(96, 2), f"{QKV}.i": torch.tensor([3, 3])}),
        "column 3) is there twice",
    ),
    "PaCA: outside": (
        "paca",
        lambda p: _saved(p, {f"{QKV}.w": torch.ones(96, 2), f"{QKV}.i": torch.tensor([3, 32])}),
        "columns outside [0, 32)",
    ),
    "NeuroAda: other k": (
        "neuroada",
        lambda p: _saved(p, {f"{QKV}.w": torch.ones(96, 2), f"{QKV}.i": torch.ones(96, 3).int()}),
        "columns: shape [96, 3]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_interpreted_is_refused_by_name(tmp_path: Path, case: str) -> None:
    kind, write, expected = CASES[case]
    assert expected in refusal(write(tmp_path), kind)


def test_scale_of_another_directory_is_not_guessed(tmp_path: Path) -> None:
    state = {f"{QKV}.paca_delta": torch.ones(96, 1), f"{QKV}.paca_indices": torch.tensor([3])}
    torch.save(state, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PACA"}')
    assert "how it is scaled is unknown" in refusal(tmp_path, "paca")


def test_named_mask_file_is_taken_of_several(tmp_path: Path) -> None:
    source = _two_masks(tmp_path)
    [delta] = convert(source, "mttl", TARGET, source / "task_mask.npz").adapter.deltas
    assert torch.equal(delta.dense(), CHANGE.weight)
    assert "belongs to mttl" in refusal(source, "spiel", mask=source / "task_mask.npz")


def test_int16_columns_of_a_wide_layer_are_refused(tmp_path: Path) -> None:
    """Columns past 32,767 have wrapped around, perhaps to valid ones."""
    wide = BaseIdentity("wide", {QKV: BaseLayer((2, 2**15 + 1), "sha256:0")})
    state = {
        f"{QKV}.sparse_layer.sparse_weights": torch.ones(2),
        f"{QKV}.sparse_layer.row_offs": torch.tensor([0, 1, 2], dtype=torch.int32),
        f"{QKV}.sparse_layer.col_idx": torch.tensor([0, 5], dtype=torch.int16),
    }
    target = Target(Layout(wide, {}), TARGET.weight)
    assert "int16 has overflowed" in refusal(_saved(tmp_path, state), "mttl", target)


def test_layer_whole_and_in_parts_is_refused(tmp_path: Path) -> None:
    part = learned(torch.ones(32, 32, dtype=torch.bool), 1)
    named = {QKV: CHANGE, "model.layers.0.self_attn.k_proj": part}
    for write, kind in ((write_spiel, "spiel"), (write_lt_sft, "lt-sft")):
        assert f"{QKV}: row 32 is changed twice" in refusal(write(tmp_path, named), kind)


@pytest.mark.parametrize("layer", [OUTPUT, DOWN])
def test_layers_of_other_shapes_are_refused(tmp_path: Path, layer: str) -> None:
    assert "mask_shape" in refusal(write_mttl(tmp_path, {layer: CHANGE}), "mttl")

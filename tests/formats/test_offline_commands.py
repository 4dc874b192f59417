"""`intarsia convert`, `extract` and `export` as they are typed: what they write, say and refuse."""

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from formats.foreign_files import learned, write_mttl, write_spiel
from safetensors.torch import load_file, save_file
from tiny_adapters import QKV, make_adapter

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.converters.convert import READERS
from adapters_store.importers.peft import read_peft
from offline import cli
from offline.base import Base


def run(command: str, *args: object) -> Result:
    return CliRunner().invoke(getattr(cli, command), [str(arg) for arg in args])


def ran(command: str, *args: object) -> str:
    result = run(command, *args)
    assert result.exit_code == 0, result.output
    return result.output


def refused(command: str, *args: object) -> str:
    """What is said, without a traceback."""
    result = run(command, *args)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture
def adapter(tiny: Path) -> SparseAdapter:
    return make_adapter(Base.open(tiny).identity, "block 16x16", 3)


@pytest.fixture
def adapter_file(adapter: SparseAdapter, tmp_path: Path) -> Path:
    files.write(adapter, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def test_formats_on_offer_are_those_there_are() -> None:
    assert set(cli.FORMATS) == set(READERS)


def test_convert_says_what_each_layer_became(tiny: Path, tmp_path: Path) -> None:
    change = learned(torch.rand(192, 64) < 0.1, 1)
    source, out = write_mttl(tmp_path, {QKV: change}), tmp_path / "out.safetensors"
    said = ran("convert", source, "--from", "mttl", "--base", tiny, "--out", out)
    assert f"{QKV}  element  {len(change.places):,}" in said
    assert "1 x 16 tiles: 0 of" in " ".join(said.split())
    adapter = files.read(out)
    assert adapter.digest in said
    assert torch.equal(adapter.deltas[0].dense(), change.weight)


def test_convert_refuses_without_a_file(tiny: Path, tmp_path: Path) -> None:
    source = write_spiel(tmp_path, {"model.layers.9.mlp.down_proj": learned(torch.eye(4) > 0, 1)})
    out = tmp_path / "out.safetensors"
    said = refused("convert", source, "--from", "spiel", "--base", tiny, "--out", out)
    assert "model.layers.9.mlp.down_proj: is no linear layer of the base" in said
    assert not out.exists()


def test_base_that_is_no_checkpoint_is_refused(tmp_path: Path, adapter_file: Path) -> None:
    said = refused("export", adapter_file, "--to", "merged", "--base", tmp_path, "--out", "m")
    assert "holds no config.json" in said


def test_export_and_extract_give_the_adapter_back(
    tiny: Path, tmp_path: Path, adapter: SparseAdapter, adapter_file: Path
) -> None:
    merged, out = tmp_path / "merged", tmp_path / "back.safetensors"
    ran("export", adapter_file, "--to", "merged", "--base", tiny, "--out", merged)
    said = ran("extract", merged, "--base", tiny, "--exact", "--kind", "block", "--out", out)
    assert "100.000%" in said
    assert "unchanged" in said
    back = files.read(out)
    assert (back.layers, back.nnz) == (adapter.layers, adapter.nnz)


def test_extract_warns_of_what_is_part_of_no_adapter(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "tuned")
    path = tmp_path / "tuned" / "model.safetensors"
    state = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(state, path, {"format": "pt"})
    args = ("--base", tiny, "--targets", "o_proj", "--out", tmp_path / "o.safetensors")
    said = ran("extract", tmp_path / "tuned", "--kind", "low_rank", "--rank", 2, *args)
    assert "Changed too, and part of no adapter: model.embed_tokens.weight" in said
    assert files.read(tmp_path / "o.safetensors").kinds == ("low_rank",)


def test_extract_of_nothing_and_of_unknown_targets_is_refused(tiny: Path, tmp_path: Path) -> None:
    args = ("--base", tiny, "--out", tmp_path / "o.safetensors", "--exact")
    assert "nothing to keep" in refused("extract", tiny, *args)
    assert "no layer is called 'q_proj'" in refused("extract", tiny, *args, "--targets", "q_proj")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "wants --keep or --exact"),
        (["--keep", "0.1", "--exact"], "wants --keep or --exact"),
        (["--rank", "3"], "--kind element wants --keep or --exact"),
        (["--kind", "low_rank", "--exact"], "--kind low_rank wants --rank"),
        (["--keep", "0"], "0"),
        (["--keep", "1.5"], "1.5"),
    ],
)
def test_amounts_that_do_not_go_with_the_kind_are_refused(
    tiny: Path, flags: list[str], expected: str
) -> None:
    assert expected in refused("extract", tiny, "--base", tiny, "--out", "x", *flags)


def test_exported_peft_directory_is_our_adapter(
    tiny: Path, tmp_path: Path, adapter: SparseAdapter, adapter_file: Path
) -> None:
    said = ran("export", adapter_file, "--to", "peft-shira", "--out", tmp_path / "shira")
    assert "peft-shira, 2 layers" in said
    base = Base.open(tiny)
    back = read_peft(tmp_path / "shira", base.identity, base.layout.parts)
    for before, after in zip(adapter.deltas, back.deltas, strict=True):
        assert torch.equal(before.dense(), after.dense())
        assert before.nnz == after.nnz


def test_compressed_export_reports_size_and_error(tmp_path: Path, adapter_file: Path) -> None:
    out = tmp_path / "small.safetensors"
    said = ran("export", adapter_file, "--to", "compeft", "--out", out, "--per-tensor")
    assert "relative error" in said
    assert out.stat().st_size < adapter_file.stat().st_size
    assert files.read(out).kinds == ("block",)


def test_export_refuses_what_it_cannot_do(tiny: Path, tmp_path: Path, adapter_file: Path) -> None:
    out = tmp_path / "out"
    said = refused("export", adapter_file, "--to", "peft-lora", "--out", out)
    assert "LoRA holds low_rank, not a delta of kind block" in said
    assert not out.exists()
    assert "--base" in refused("export", adapter_file, "--to", "merged", "--out", out)
    assert "--base" in refused(
        "export", adapter_file, "--to", "compeft", "--out", out, "--base", tiny
    )
    assert "is there already" in refused(
        "export", adapter_file, "--to", "peft-shira", "--out", tiny
    )


def test_adapter_of_another_base_is_not_merged(
    tiny_llama: Path, tmp_path: Path, adapter_file: Path
) -> None:
    args = ("--to", "merged", "--base", tiny_llama, "--out", tmp_path / "m")
    assert "the file is for another base" in refused("export", adapter_file, *args)
    assert not (tmp_path / "m").exists()

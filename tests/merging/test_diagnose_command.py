"""`intarsia diagnose` as it is typed: tables, JSON, bounds and heat maps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.colors import to_rgba
from store_factories import QKV, adapter_of, element, low_rank, random
from tiny_adapters import make_adapter
from tiny_models import make_tiny_checkpoint

from adapters_store import files
from adapters_store.adapter import SparseAdapter, WeightDelta
from adapters_store.merging.diagnose import LayerDiagnosis, diagnose_layer
from adapters_store.merging.diagnostics.counts import Counts
from offline import heat_map
from offline.base import Base
from offline.diagnosing import diagnose

PNG = b"\x89PNG\r\n\x1a\n"


def run(*args: object) -> Result:
    return CliRunner().invoke(diagnose, [str(arg) for arg in args], env={"COLUMNS": "120"})


def ran(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sparse adapters that overlap, and one of low rank."""
    directory = tmp_path_factory.mktemp("adapters")
    adapters = {
        "dates": adapter_of(element(QKV, torch.float32, random(0))),
        "words": adapter_of(element(QKV, torch.float32, random(1))),
        "whole": adapter_of(low_rank(QKV, torch.float32, random(2))),
    }
    return [_written(adapter, directory / name) for name, adapter in adapters.items()]


def _written(adapter: SparseAdapter, stem: Path) -> Path:
    path = stem.with_suffix(".safetensors")
    files.write(adapter, path)
    return path


def test_tables_name_adapters_pairs_and_layers(paths: list[Path]) -> None:
    said = ran(*paths)
    for words in ("dates", "words", "dates, words", "self_attn.qkv_proj", "dense", "all"):
        assert words in said
    assert "q_proj" not in said.replace("qkv_proj", "")  # no base, no rows of q


def test_one_adapter_has_no_pairs(paths: list[Path]) -> None:
    said = ran(paths[0])
    assert "pair" not in said
    assert "-" in said  # sign conflicts of nothing contested


def test_json_is_the_whole_report(paths: list[Path]) -> None:
    told = json.loads(ran(*paths, "--json", "--weight", 1, "--weight", -0.5, "--weight", 2))
    assert told["object"] == "merge.diagnosis"
    assert [member["id"] for member in told["members"]] == ["dates", "words", "whole"]
    assert [member["weight"] for member in told["members"]] == [1, -0.5, 2]
    assert told["members"][0]["digest"] == files.read(paths[0]).digest
    assert told["layers"][0]["layer"] == QKV


def test_files_of_one_name_are_told_apart(paths: list[Path], tmp_path: Path) -> None:
    other = tmp_path / paths[0].name
    other.write_bytes(paths[0].read_bytes())
    told = json.loads(ran(paths[0], other, "--json"))
    assert [member["id"] for member in told["members"]] == [str(paths[0]), str(other)]


def test_warning_is_said_and_passes(paths: list[Path]) -> None:
    said = ran(*paths[:2], "--warn-if", "coverage=0.1")
    assert "warn: coverage is 0.4" in said


def test_refusal_says_who_is_worst_and_fails(paths: list[Path]) -> None:
    result = run(*paths, "--refuse-if", "jaccard=0.01", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "refuse"
    assert "refuse: jaccard of dates and w" in run(*paths, "--refuse-if", "jaccard=0.01").output


WRONG = [
    pytest.param([], "Missing argument", id="nothing"),
    pytest.param(["{0}", "--weight", "1", "--weight", "2"], "2 given for 1", id="weights"),
    pytest.param(["{0}", "--weight", "nan"], "must be finite", id="weight"),
    pytest.param(["{0}", "--warn-if", "luck=1"], "'luck' is no measure", id="measure"),
    pytest.param(["{0}", "--warn-if", "lift=much"], "is not a valid float", id="number"),
    pytest.param(["{0}", "--refuse-if", "lift=inf"], "inf is no bound", id="infinite"),
    pytest.param(["{0}", "--warn-if", "lift"], "is not a valid float", id="no-number"),
]


@pytest.mark.parametrize(("args", "expected"), WRONG)
def test_mistake_is_told_before_anything_is_read(
    paths: list[Path], args: Sequence[str], expected: str
) -> None:
    result = run(*(arg.format(paths[0]) for arg in args))
    assert result.exit_code == 2
    assert expected in result.output


def test_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 64)
    result = run(tmp_path / "x.safetensors")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)


def test_file_whose_values_were_changed_is_refused(paths: list[Path], tmp_path: Path) -> None:
    content = bytearray(paths[0].read_bytes())
    content[-1] ^= 1
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    result = run(path, paths[1])
    assert result.exit_code == 1
    assert "corrupt" in result.output


def test_base_tells_the_rows_of_q_k_and_v(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny", "phi3-mini")
    identity = Base.open(checkpoint).identity
    path = _written(make_adapter(identity, "element", 1), tmp_path / "a")
    said = ran(path, "--base", checkpoint)
    for part in ("every q_proj", "every k_proj", "every v_proj"):
        assert part in said


def test_adapters_of_another_base_are_refused(paths: list[Path], tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny", "phi3-mini")
    result = run(paths[0], "--base", checkpoint)
    assert result.exit_code == 1
    assert QKV in result.output


def test_heat_maps_are_written_and_the_same_each_time(paths: list[Path], tmp_path: Path) -> None:
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    ran(*paths, "--png", png, "--svg", svg)
    before = png.read_bytes(), svg.read_bytes()
    assert before[0].startswith(PNG)
    assert ElementTree.fromstring(before[1]).tag.endswith("svg")
    ran(*paths, "--png", png, "--svg", svg)
    assert (png.read_bytes(), svg.read_bytes()) == before


def counts_of(count: int) -> Counts:
    deltas: list[WeightDelta] = [element(QKV, torch.float32, random(seed)) for seed in range(count)]
    layer: LayerDiagnosis = diagnose_layer(deltas, [1.0] * count)
    return layer.counts


@pytest.mark.parametrize("count", [1, 2, heat_map.MOST_WRITTEN, heat_map.MOST_WRITTEN + 1])
def test_heat_map_shows_every_pair_and_writes_numbers_while_they_fit(count: int) -> None:
    figure = heat_map.draw(counts_of(count), [f"${i}_^" for i in range(count)])
    figure.canvas.draw()  # names are no formulas
    for axes in figure.axes[:2]:
        values: Any = np.ma.asarray(axes.images[0].get_array())
        assert values.shape == (count, count)
        assert values.mask.sum() == count  # the diagonal
        written = sum(bool(text.get_text()) for text in axes.texts)
        assert written == (count * (count - 1) if count <= heat_map.MOST_WRITTEN else 0)


def test_heat_map_is_opaque() -> None:
    """On a dark page a transparent one would have dark writing on a dark ground."""
    assert to_rgba(heat_map.draw(counts_of(2), ["a", "b"]).get_facecolor())[3] == 1.0

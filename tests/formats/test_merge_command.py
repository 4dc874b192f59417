"""`intarsia merge` as it is typed: what it writes, replays and refuses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from store_factories import BASE, adapter_of, bias, element, random, random_adapter

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.merging.merge import merge
from adapters_store.merging.reader import MemoryReader
from adapters_store.merging.recipe import Recipe
from offline import merging

DEFAULT = "overlap_average"


def run(*args: object) -> Result:
    return CliRunner().invoke(merging.merge, [str(arg) for arg in args])


def ran(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*args: object) -> str:
    """What is said, without a traceback."""
    result = run(*args)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def adapters() -> list[SparseAdapter]:
    return [random_adapter(seed, kind) for seed, kind in enumerate(("element", "block", "bias"))]


@pytest.fixture
def paths(adapters: list[SparseAdapter], tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.safetensors" for number in range(len(adapters))]
    for path, adapter in zip(found, adapters, strict=True):
        files.write(adapter, path)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


def test_default_is_the_overlap_average_of_equal_weights(
    adapters: list[SparseAdapter], paths: list[Path], out: Path
) -> None:
    said = ran(*paths, "-o", out)
    recipe = Recipe.build(DEFAULT, {}, [(adapter.digest, 1.0) for adapter in adapters])
    expected = merge(recipe, {a.digest: MemoryReader(a) for a in adapters})
    assert files.read(out).digest == expected.digest
    assert expected.digest in said
    assert recipe.digest in said


def test_weights_follow_an_equals_sign(
    adapters: list[SparseAdapter], paths: list[Path], out: Path
) -> None:
    ran(f"{paths[0]}=0.5", f"{paths[1]}=-2e-1", paths[2], "-o", out, "--method", "linear")
    weights = [0.5, -0.2, 1.0]
    members = zip([adapter.digest for adapter in adapters], weights, strict=True)
    assert files.read(out).notes["lineage"] == Recipe.build("linear", {}, members).json()


def test_equals_sign_of_a_file_that_exists_is_part_of_its_name(
    adapters: list[SparseAdapter], out: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a=0.5"
    files.write(adapters[0], odd)
    ran(odd, "-o", out)
    assert json.loads(files.read(out).notes["lineage"])["members"][0][1] == "3f800000"


@pytest.mark.parametrize("is_json", [True, False], ids=["recipe", "merged adapter"])
def test_replay_gives_the_same_bytes_whatever_the_order(
    paths: list[Path], out: Path, tmp_path: Path, is_json: bool
) -> None:
    ran(f"{paths[0]}=0.5", paths[1], f"{paths[2]}=3", "-o", out, "--method", "average")
    source, again = out, tmp_path / "again.safetensors"
    if is_json:
        source = tmp_path / "recipe.json"
        source.write_text(json.dumps(json.loads(files.read(out).notes["lineage"]), indent=2))
    ran(*reversed(paths), "-o", again, "--recipe", source, "--threads", 2)
    assert again.read_bytes() == out.read_bytes()


def test_replay_wants_just_the_adapters_of_the_recipe(
    adapters: list[SparseAdapter], paths: list[Path], out: Path, tmp_path: Path
) -> None:
    ran(*paths[:2], "-o", out)
    again = tmp_path / "again.safetensors"
    assert f"no file holds {adapters[1].digest}" in refused(paths[0], "-o", again, "--recipe", out)
    assert f"{adapters[2].digest} is not in the recipe" in refused(
        *paths, "-o", again, "--recipe", out
    )
    assert "carries no recipe" in refused(paths[0], "-o", again, "--recipe", paths[0])
    assert not again.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "magic"], "method 'magic'"),
        (["--method", "linear", "-p", "density=0.5"], "density 0.5"),
        (["-p", "density"], "not of the form NAME=VALUE"),
        (["-p", "=1"], "not of the form NAME=VALUE"),
        (["--method", "linear", "--seed", 1], "seed 1"),
        (["--threads", 0], "0 is not in the range"),
    ],
    ids=str,
)
def test_mistakes_are_named(paths: list[Path], out: Path, arguments: list[str], said: str) -> None:
    assert said in refused(*paths, "-o", out, *arguments)
    assert not out.exists()


@pytest.mark.parametrize("weight", ["nan", "inf", "1e39"])
def test_weight_that_is_no_fp32_number_is_refused(
    paths: list[Path], out: Path, weight: str
) -> None:
    assert "members.1.weight" in refused(paths[0], f"{paths[1]}={weight}", "-o", out)


def test_weight_that_is_no_number_is_refused(paths: list[Path], out: Path) -> None:
    assert "'heavy' is no weight" in refused(f"{paths[0]}=heavy", "-o", out)


def test_files_for_two_bases_are_refused(out: Path, tmp_path: Path) -> None:
    mine = random_adapter(1)
    layer = mine.layers[0]
    other = SparseAdapter("other", {layer: f"sha256:{'d' * 64}"}, random_adapter(2).deltas, {})
    paths = [tmp_path / "mine", tmp_path / "other"]
    for path, adapter in zip(paths, (mine, other), strict=True):
        files.write(adapter, path)
    said = refused(*paths, "-o", out)
    assert "made for different bases" in said
    assert BASE.layers[layer].digest in said
    assert not out.exists()


def test_recipe_and_method_exclude_each_other(paths: list[Path], out: Path) -> None:
    ran(*paths, "-o", out)
    assert "--recipe says the method" in refused(
        *paths, "-o", out, "--recipe", out, "--method", "linear"
    )
    assert "--recipe says the method" in refused(f"{paths[0]}=1", "-o", out, "--recipe", out)


def test_file_that_is_no_adapter_is_named(paths: list[Path], out: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no adapter")
    assert f"{broken}: " in refused(paths[0], broken, "-o", out)


def test_two_changes_of_one_weight_are_refused(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "double"
    deltas = (*random_adapter(1, "low rank").deltas, *random_adapter(1, "element").deltas)
    files.write(adapter_of(*deltas), path)
    assert "more than one delta" in refused(path, "-o", out)


def test_biases_are_merged_beside_weights(out: Path, tmp_path: Path) -> None:
    import torch

    layer = "layers.0.self_attn.qkv_proj"
    parts = [make(layer, torch.float32, random(3)) for make in (element, bias)]
    files.write(adapter_of(*parts), tmp_path / "both")
    ran(tmp_path / "both", "-o", out)
    assert files.read(out).kinds == ("bias", "element")

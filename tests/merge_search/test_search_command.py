"""`intarsia search`: flags and files make a search; what is wrong with them is named."""

import csv
import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from servers import RunningServer

from merge_search.cli import search as command
from merge_search.config import read_config
from merge_search.errors import SearchRefused


def run(server: RunningServer, out: Path, *args: str) -> Result:
    return CliRunner().invoke(command, [*args, "--url", server.url, "--out", str(out)])


def test_the_command_searches_a_grid_and_keeps_the_best(
    server: RunningServer, files: dict[str, str], tmp_path: Path
) -> None:
    told = tmp_path / "search.toml"
    told.write_text(f"candidates = ['one', 'two']\ndata = ['{files['seen']}']\nmetric = 'loss'\n")
    result = run(
        server,
        tmp_path / "out",
        *("--config", str(told), "--test", files["unseen"], "--trials", "20"),
        *("--method", "linear", "--sum", "1", "--grid", "4", "--publish", "found/grid"),
    )
    assert result.exit_code == 0, result.output
    *table, recipe, published = result.output.splitlines()
    assert "best less it" in table[0]
    assert "1: one@1" in table
    assert published == "published found/grid@1"
    body = {"model": "tiny", "prompt": "setting", "max_tokens": 2, **json.loads(recipe)}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["one@1"] for row in rows} >= {"0.3333", "0.6667"}
    assert (tmp_path / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        ((), 1, "candidates: "),
        (("one", "--data", "sums", "-p", "density"), 2, "NAME=VALUES"),
        (("one", "--data", "sums", "--weights", "1"), 2, "LOW:HIGH"),
        (("one", "--data", "sums", "--weights", "2:1"), 1, "weights"),
        (("one", "--data", "sums", "--weights", "0:1", "--sum", "1"), 2, "--sum"),
        (("one", "--data", "sums", "--method", "soup"), 1, "methods: "),
    ],
)
def test_the_command_names_what_is_wrong(
    server: RunningServer, tmp_path: Path, args: tuple[str, ...], status: int, told: str
) -> None:
    result = run(server, tmp_path / "out", *args)
    assert result.exit_code == status
    assert told in result.output


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text(
        'candidates = ["a", "b"]\ndata = ["sums"]\ntrials = 9\n'
        "[weights]\nsum = 1\n[parameters]\ndensity = {low = 0.1, high = 0.9, log = true}\n"
    )
    found = read_config(file, {"trials": 30})
    assert (found.trials, found.weights.sum, found.candidates) == (30, 1, ("a", "b"))
    space = found.model_copy(update={"methods": ("magnitude_prune",)}).space(("a@1", "b@1"))
    axes = [axis.name for axis in space.methods["magnitude_prune"].axes]
    assert axes == ["weight a@1", "density"]


@pytest.mark.parametrize("text", ["trials = ", "[weights]\nsum = 1\nhigh = 2", "rounds = 3"])
def test_a_file_that_does_not_do_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "search.toml").write_text(text)
    with pytest.raises(SearchRefused):
        read_config(tmp_path / "search.toml", {"candidates": ["a"], "data": ["b"]})

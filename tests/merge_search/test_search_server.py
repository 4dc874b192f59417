"""A search of a real server: rounds as evaluations, tested, told, kept, and gone on with."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from evaluation_runs import jsonl, rows_of
from intarsia_client import Client, Evaluation
from servers import RunningServer, running_server
from tiny_models import make_tiny_checkpoint

from merge_search.cli import search as command
from merge_search.config import SearchConfig
from merge_search.errors import JournalRefused, SearchRefused
from merge_search.publishing import publish, told_in_metadata
from merge_search.report import remarks, result_json
from merge_search.searching import SearchResult, search

NAMES = ["one", "two", "three"]
ROWS = [{**row, "prompt": f"{row['prompt']} again"} for row in rows_of(8)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    base = make_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny")
    with running_server(base) as started:
        for seed, name in enumerate(NAMES):
            started.publish(name, "element", seed)
        yield started


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Validation and test rows."""
    directory = tmp_path_factory.mktemp("rows")
    for name, rows in {"seen": ROWS[:4], "unseen": ROWS[4:]}.items():
        (directory / f"{name}.jsonl").write_bytes(jsonl(rows))
    return {name: str(directory / f"{name}.jsonl") for name in ("seen", "unseen")}


def config_of(files: dict[str, str], **fields: Any) -> SearchConfig:
    asked: dict[str, Any] = {
        "candidates": NAMES,
        "methods": ["linear", "ties"],
        "data": [files["seen"]],
        "test": [files["unseen"]],
        "metric": "loss",
        "trials": 15,
        "batch": 4,
    }
    return SearchConfig(**{**asked, **fields})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(client: Client, files: dict[str, str], out: Path) -> SearchResult:
    return search(client, config_of(files), out)


def test_the_best_is_no_worse_on_validation_than_any_baseline(found: SearchResult) -> None:
    assert len(found.trials) == 15
    assert [each.kind for each in found.trials[:7]] == [
        *["base", *["candidate"] * 3, "uniform"],
        *["start"] * 2,
    ]
    scores = [each.score for each in found.trials if each.mix.members and each.score is not None]
    assert len(scores) == 14
    assert found.best.score == min(scores)


def test_a_round_is_one_evaluation_of_inline_compositions(
    client: Client, found: SearchResult, out: Path
) -> None:
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if "round" in line]
    assert [len(line["trials"]) for line in rounds] == [7, 4, 4]
    evaluation = client.evaluation(rounds[1]["ticket"])
    asked = [each["asked"] for each in evaluation.raw["subjects"]]
    assert [each["name"] for each in asked] == [f"trial-{number}" for number in range(7, 11)]
    assert asked[0]["adapters"] == found.trials[7].mix.request()["adapters"]
    assert evaluation.rows_total == 4 * 4


def test_scores_are_those_of_the_mix_in_a_plain_evaluation(
    client: Client, found: SearchResult, files: dict[str, str]
) -> None:
    rows = {"id": client.upload_dataset(files["seen"]).id}
    started = client.start_evaluation([found.recipe], [rows], ["loss"])
    (*_, ended) = client.watch_evaluation(started.id)
    assert ended.overall[0]["metrics"]["loss"]["mean"] == found.best.score


def test_test_rows_judge_the_best_against_every_baseline(found: SearchResult) -> None:
    tested = {each.trial.number: each for each in found.tested}
    assert {0, 1, 2, 3, 4, found.best.number} <= tested.keys()
    best = tested[found.best.number]
    assert best.gain is None
    assert best.n == 4
    for each in found.tested:
        assert each.low <= each.mean <= each.high
        if each.gain is not None:
            assert each.gain.delta == pytest.approx(best.mean - each.mean)
            assert each.gain.low <= each.gain.delta <= each.gain.high


def test_a_search_that_is_done_asks_nothing_again(
    client: Client, found: SearchResult, files: dict[str, str], out: Path
) -> None:
    before = [each.id for each in client.evaluations()]
    again = search(client, config_of(files), out)
    assert [each.id for each in client.evaluations()] == before
    assert (again.trials, again.tested) == (found.trials, found.tested)


def test_another_search_does_not_go_on_in_its_place(
    client: Client, files: dict[str, str], out: Path, found: SearchResult
) -> None:
    with pytest.raises(JournalRefused, match="methods"):
        search(client, config_of(files, methods=["linear"]), out)
    with pytest.raises(JournalRefused, match="data"):
        search(client, config_of(files, data=[files["unseen"]], test=[]), out)


def test_a_cancelled_round_is_asked_again(
    client: Client, files: dict[str, str], tmp_path: Path
) -> None:
    class Interrupted(Client):
        """Cancels the first evaluation that it looks at."""

        has_cancelled = False

        def evaluation(self, evaluation_id: str) -> Evaluation:
            if not self.has_cancelled:
                self.has_cancelled = True
                return super().cancel_evaluation(evaluation_id)
            return super().evaluation(evaluation_id)

    asked = config_of(files, test=[], trials=7, data=[files["unseen"]])
    with Interrupted(str(client._http.base_url)) as other:
        result = search(other, asked, tmp_path)
    assert all(trial.score is not None for trial in result.trials)


def test_the_best_is_kept_with_the_search_in_its_metadata(
    client: Client, found: SearchResult
) -> None:
    chosen = next(trial for trial in found.trials if trial.mix.merge.get("method") == "ties")
    kept = publish(client, replace(found, best=chosen), "found/best")
    told = kept.metadata["search"]
    assert (told["trials"], told["best"], told["metric"]) == (15, chosen.number, "loss")
    assert told["columns"][:3] == ["trial", "kind", "score"]
    assert [row[0] for row in told["table"][:1]] == [found.best.number]
    assert len(told["table"]) == 14
    assert "ties" in str(kept.metadata["lineage"])


def test_one_adapter_alone_is_not_kept_again(client: Client, found: SearchResult) -> None:
    alone = replace(found, best=found.trials[1])
    with pytest.raises(SearchRefused, match="one@1 alone"):
        publish(client, alone, "found/alone")


def test_metadata_holds_as_much_of_the_table_as_fits(
    found: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = told_in_metadata(found)
    monkeypatch.setattr("merge_search.publishing.MAX_BYTES", len(json.dumps(whole)) - 500)
    part = told_in_metadata(found)["table"]
    assert 0 < len(part) < len(whole["table"])
    assert part == whole["table"][: len(part)]


def test_json_and_remarks_tell_how_many_trials_there_were(found: SearchResult) -> None:
    assert "Best of 15 trials" in next(iter(remarks(found)))
    told = json.loads(json.dumps(result_json(found)))
    assert len(told["trials"]) == 15
    assert told["best"]["adapters"] == found.recipe["adapters"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"candidates": ["one", "one@1"]}, "candidates"),
        ({"metric": "bleu"}, "metric"),
        ({"trials": 6}, "trials"),
        ({"grid": 5}, "grid"),
        ({"test": ["SEEN"]}, "test"),
        ({"data": ["SEEN", "SEEN"]}, "data"),
        ({"data": ["sums:all"]}, "data"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_evaluated(
    client: Client, files: dict[str, str], tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    before = len(client.evaluations())
    texts = {name: [files["seen"] if each == "SEEN" else each for each in value]
             if isinstance(value, list) else value for name, value in fields.items()}  # fmt: skip
    with pytest.raises(SearchRefused) as refused:
        search(client, config_of(files, **texts), tmp_path)
    assert refused.value.field == field
    assert len(client.evaluations()) == before


# The command


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
    from merge_search.config import read_config

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
    from merge_search.config import read_config

    (tmp_path / "search.toml").write_text(text)
    with pytest.raises(SearchRefused):
        read_config(tmp_path / "search.toml", {"candidates": ["a"], "data": ["b"]})

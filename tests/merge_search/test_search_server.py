"""A search of a real server: rounds as evaluations, tested, told, kept, and gone on with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from intarsia_client import Client, Evaluation

from merge_search.config import SearchConfig
from merge_search.errors import JournalRefused, SearchRefused
from merge_search.publishing import publish, told_in_metadata
from merge_search.report import remarks, result_json
from merge_search.searching import SearchResult, search

NAMES = ["one", "two", "three"]


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

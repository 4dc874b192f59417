"""What is written is whole, told in the manifest, and the same each time."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from task_sources import Excerpts

from adapters_store.tasks import building
from adapters_store.tasks.building import build
from adapters_store.tasks.errors import (
    PackageUnavailable,
    RowsCorrupt,
    RowsMissing,
    SourceChanged,
    UnknownTask,
)
from adapters_store.tasks.rows import SPLITS, Row, load
from adapters_store.tasks.table import TASKS, named

CAP = 40


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All thirty tasks of the excerpts."""
    out = tmp_path_factory.mktemp("tasks")
    outcome = build(TASKS, out, Excerpts(), CAP)
    assert not outcome.failed
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_same_packages_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build(TASKS[::-1], tmp_path, Excerpts(), CAP)
    assert files_of(tmp_path) == files_of(built)


def test_manifest_counts_and_digests_what_is_there(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())["tasks"]
    assert list(manifest) == sorted(task.name for task in TASKS)
    for name, told in manifest.items():
        for split in SPLITS:
            content = (built / name / f"{split}.jsonl").read_bytes()
            assert told["splits"][split]["sha256"] == hashlib.sha256(content).hexdigest()
            assert told["splits"][split]["rows"] == len(load(built / name, split))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_rows_are_read_back(built: Path, task: Any) -> None:
    rows = [row for split in SPLITS for row in load(built / task.name, split)]
    assert 0 < len(rows) <= CAP
    assert {row.task for row in rows} == {task.name}
    assert len({row.prompt for row in rows}) == len(rows)
    assert all(row.prompt.strip() and row.target.strip() for row in rows)


def test_no_prompt_is_in_two_tasks(built: Path) -> None:
    rows = [row for task in TASKS for split in SPLITS for row in load(built / task.name, split)]
    assert len({row.prompt for row in rows}) == len(rows)


def test_licences_name_every_task(built: Path) -> None:
    text = (built / "LICENCES.md").read_text()
    assert all(f"| `{task.name}` | {task.licence} |" in text for task in TASKS)


def test_a_task_that_cannot_be_had_does_not_stop_the_others(tmp_path: Path) -> None:
    tasks = named(["antonym", "sentiment_yelp", "define_word"])
    outcome = build(tasks, tmp_path, Excerpts(missing=["wordnet-base"]))
    assert set(outcome.failed) == {"antonym", "define_word"}
    assert isinstance(outcome.failed["antonym"], PackageUnavailable)
    assert "wordnet-base 1:3.0-37" in str(outcome.failed["antonym"])
    assert set(outcome.built) == {"sentiment_yelp"}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["sentiment_yelp"]


def test_a_package_without_the_expected_file_is_named(tmp_path: Path) -> None:
    class Empty(Excerpts):
        def members(self, packages: Any) -> dict[str, bytes]:
            return {}

    outcome = build(named(["antonym"]), tmp_path, Empty())
    assert isinstance(outcome.failed["antonym"], SourceChanged)
    assert "usr/share/wordnet" in str(outcome.failed["antonym"])


def test_tasks_built_earlier_stay_in_the_manifest(tmp_path: Path) -> None:
    for name in ("sentiment_yelp", "verb_forms"):
        build(named([name]), tmp_path, Excerpts())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["tasks"]) == ["sentiment_yelp", "verb_forms"]


def test_a_folder_that_was_written_in_part_is_not_taken_for_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(rows: Any) -> bytes:
        raise KeyboardInterrupt

    build(named(["verb_forms"]), tmp_path, Excerpts())
    monkeypatch.setattr(building, "to_jsonl", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(named(["verb_forms"]), tmp_path, Excerpts())
    assert not (tmp_path / "verb_forms" / "task.json").exists()


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(UnknownTask, match="antonym") as caught:
        named(["antonyms"])
    assert caught.value.name == "antonyms"


def test_missing_rows_are_told_by_their_file(tmp_path: Path) -> None:
    with pytest.raises(RowsMissing) as caught:
        load(tmp_path, "test")
    assert caught.value.file == tmp_path / "test.jsonl"


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"task": "t", "prompt": "p"}'])
def test_a_line_that_is_no_row_is_told_by_its_number(tmp_path: Path, line: str) -> None:
    good = '{"task": "t", "prompt": "p\u2028q", "target": "a"}\n'
    (tmp_path / "train.jsonl").write_text(good + line + "\n")
    with pytest.raises(RowsCorrupt) as caught:
        load(tmp_path, "train")
    assert caught.value.line == 2
    (tmp_path / "train.jsonl").write_text(good)
    assert load(tmp_path, "train") == [Row("t", "p\u2028q", "a")]

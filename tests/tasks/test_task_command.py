"""`intarsia tasks`, and the document that shows its table."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from task_sources import Excerpts

from adapters_store.tasks import fetching
from adapters_store.tasks.building import CAP
from adapters_store.tasks.listing import markdown
from adapters_store.tasks.rows import load
from adapters_store.tasks.table import TASKS
from offline import tasks as command

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of packages that cannot be had; the others are excerpts."""
    names: list[str] = []
    monkeypatch.setattr(fetching, "Cache", lambda folder: Excerpts(names))
    return names


def test_the_document_shows_the_table() -> None:
    shown = CliRunner().invoke(command.tasks, ["list"])
    assert shown.output == markdown(TASKS)
    assert DOCUMENT.read_text().endswith(shown.output), "intarsia tasks list has changed"


def test_build_writes_the_asked_tasks(missing: list[str], tmp_path: Path) -> None:
    asked = ["build", "--task", "verb_forms", "--cap", "12", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(command.tasks, asked)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "tasks" / "verb_forms"
    assert f"{folder}: 12 rows" in done.output
    assert load(folder, "train")


def test_a_failed_task_is_named_and_the_others_are_made(missing: list[str], tmp_path: Path) -> None:
    missing.append("breame")
    names = ["verb_forms", "british_to_american"]
    asked = ["build", "--out", str(tmp_path), *(f"--task={name}" for name in names)]
    done = CliRunner().invoke(command.tasks, asked)
    assert done.exit_code == 1
    assert "british_to_american: not made: breame 0.1.2 cannot be had" in done.stderr
    assert load(tmp_path / "verb_forms", "train")


def test_an_unknown_task_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = CliRunner().invoke(command.tasks, ["build", "--task=x", "--out", str(tmp_path / "o")])
    assert done.exit_code == 1
    assert "there is no task 'x'" in done.stderr
    assert not (tmp_path / "o").exists()


def test_the_command_has_the_cap_of_the_library() -> None:
    assert command.CAP == CAP

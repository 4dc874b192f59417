"""The comparison: which runs there are, that none is made twice, and what its tables say."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters_store.tasks.rows import Row, to_jsonl
from adapters_store.training.config import build
from adapters_store.training.data import read_rows
from adapters_store.training.schedule import Schedule
from examples.compare import Comparison
from examples.drawing import draw, tables
from examples.log import Log
from examples.plan import METHODS, RATES, SPARSE, STAGES, TASKS, Plan, best_rate, next_rate
from examples.runs import Place
from examples.task_rows import TaskRows

NAN = float("nan")
EACH_RATE = dict.fromkeys(METHODS, 1e-3)


@pytest.fixture
def task_rows(tmp_path: Path) -> TaskRows:
    """Every task of the comparison, 700 rows on each side."""
    for task in TASKS:
        (tmp_path / "tasks" / task).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            rows = [Row(task, f"{split} {i}", str(i)) for i in range(700)]
            (tmp_path / "tasks" / task / f"{split}.jsonl").write_bytes(to_jsonl(rows))
    return TaskRows(tmp_path)


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ({}, 1e-3),
        ({1e-3: 2.0}, 3e-4),
        ({1e-3: 2.0, 3e-4: 3.0}, 3e-3),
        ({1e-3: 2.0, 3e-4: 3.0, 3e-3: 4.0}, None),
        ({1e-3: 2.0, 3e-4: 3.0, 3e-3: 1.0}, 1e-2),
        ({1e-3: 2.0, 3e-4: 1.0}, 1e-4),
        ({1e-4: 1.0, 3e-4: 2.0}, None),  # the end of the rates
        ({1e-3: NAN, 3e-4: 1.0, 1e-4: 2.0}, None),
    ],
)
def test_rates_are_tried_until_the_best_has_worse_neighbours(
    losses: Mapping[float, float], wanted: float | None
) -> None:
    assert next_rate(losses, 1e-3) == wanted


def test_a_loss_that_is_no_number_is_the_worst() -> None:
    assert best_rate({1e-3: NAN, 3e-4: 9.0}) == 3e-4


def test_every_search_ends_within_the_rates() -> None:
    losses: dict[float, float] = {}
    while (rate := next_rate(losses, RATES[0])) is not None:
        losses[rate] = -rate
    assert best_rate(losses) == RATES[-1]


def test_runs_have_names_of_their_own_and_every_method_meets_every_task() -> None:
    runs = [run for stage in STAGES[1:] for run in Plan().runs(stage, EACH_RATE)]
    pairs = {(run.method, run.about) for run in runs if run.stage == "tasks" and run.training}
    assert len({run.name for run in runs}) == len(runs)
    assert pairs == {(method, task) for method in METHODS for task in TASKS}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_training_is_a_configuration_of_eighty_steps_or_fewer(
    stage: str, task_rows: TaskRows, tmp_path: Path
) -> None:
    for run in Plan().runs(stage, EACH_RATE):
        if run.training is None:
            continue
        training = replace(run.training, start_from=tmp_path / "start" if run.merge else None)
        config = build(training.config(task_rows, tmp_path, tmp_path / "out"))
        rows = [row for path in config.data for row in read_rows(path)]
        schedule = Schedule(config, len(rows))
        assert (len(rows), schedule.total in (20, 40, 80)) == (8 * schedule.total, True)
        assert schedule.dense_steps == (schedule.total // 5 if config.is_selecting else 0)


def test_rate_runs_watch_validation_rows_and_are_half_as_long(
    task_rows: TaskRows, tmp_path: Path
) -> None:
    for method in METHODS:
        training = Plan().rate_run(method, 1e-3).training
        assert training is not None
        config = build(training.config(task_rows, tmp_path, tmp_path / "out"))
        (watched,) = [read_rows(path) for path in config.validation]
        assert (config.max_steps, config.evaluate_every, len(watched)) == (40, 40, 100)
        assert all(row.prompt.startswith("validation") for row in watched)


def line(run: str, stage: str = "tasks", **fields: Any) -> dict[str, Any]:
    return {"run": run, "stage": stage, "settings": {"a": 1}, **fields}


def test_log_keeps_the_last_line_of_a_run_and_its_losses(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.add(line("one", value=1), [0.123456, 2.0])
    log.add(line("two"), [])
    log.add(line("one", value=2), [3.0])
    assert [each["run"] for each in log.lines()] == ["two", "one"]
    assert log.line("one", {"a": 1}) == line("one", value=2)
    assert log.line("one", {"a": 2}) is None
    assert json.loads((tmp_path / "log/losses/one.json").read_text()) == [3.0]
    assert not (tmp_path / "log/losses/two.json").exists()


class NoWork(Place):
    """Fails if anything is to be trained or scored."""

    def trained(self, *_: Any) -> dict[str, Any]:
        raise AssertionError("trained again")

    def scored(self, *_: Any) -> dict[str, Any]:
        raise AssertionError("scored again")


def comparison(log: Log, task_rows: TaskRows, rows: int = 100) -> Comparison:
    place = NoWork(task_rows.data_dir, task_rows.data_dir / "work", task_rows)
    return Comparison(Plan(), place, log, rows=rows, workers=1)


def test_a_line_in_the_log_is_not_made_again_unless_its_settings_changed(
    task_rows: TaskRows, tmp_path: Path
) -> None:
    log = Log(tmp_path / "log")
    first, *_ = Plan().runs("tasks", EACH_RATE)
    log.add(line(first.name) | {"settings": first.settings() | {"rows": 100}}, [])
    comparison(log, task_rows).finish(first)
    with pytest.raises(AssertionError, match="again"):
        comparison(log, task_rows, rows=50).finish(first)


def test_rates_are_taken_from_the_log(task_rows: TaskRows, tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for rate, loss in ((1e-3, 3.0), (3e-3, 1.0), (1e-2, 2.0)):
        run = Plan().rate_run(SPARSE, rate)
        found = line(run.name, "rates", method=SPARSE, validation_loss=loss)
        log.add(found | {"settings": run.settings()}, [])
    known = comparison(log, task_rows)
    known.search(SPARSE)
    assert known.rate(SPARSE) == 3e-3


def scored_line(method: str, task: str, share: float) -> dict[str, Any]:
    scores = {task: {"rows": 4, "exact_match": share, "rouge_l": 100 * share}}
    return line(f"tasks.{method}.{task}", method=method, about=task, scores=scores)


def timed_line(method: str, **phases: float) -> dict[str, Any]:
    """A line of the stage `costs`; each phase has its seconds, and as many MiB."""
    costs = {
        name: {"seconds_per_step": each, "peak_bytes": each * 2**20, "state_bytes": each * 2**20}
        for name, each in phases.items()
    }
    told = {"values": 10, "bytes": 80, "digest": "d"}
    found = line(f"costs.{method}", "costs", method=method, phases=costs, adapter=told, scores={})
    return found | {"settings": {"training": {"lr": 0.003}}}


LINES = [
    scored_line(SPARSE, TASKS[0], 0.5),
    scored_line(SPARSE, TASKS[1], 1.0),
    scored_line("full targets", TASKS[0], 0.25),
    timed_line(SPARSE, dense=3.0, sparse=1.0),
    timed_line("full targets", dense=4.0),
]


def test_tables_have_means_of_tasks_and_what_each_phase_costs() -> None:
    told = tables(LINES)
    assert f"| {SPARSE} | 50.0% / 50.0 | 100.0% / 100.0 | 75.0% / 75.0 |" in told
    assert "| full targets | 25.0% / 25.0 |  |  |" in told
    assert f"| {SPARSE} | 0.003 | 10 | 80 | 3.00 | 1.00 | 3 | 1 | 3.0 | 1.0 |" in told
    assert "| full targets | 0.003 | 10 | 80 | - | 4.00 | - | 4 | - | 4.0 |" in told


@pytest.mark.parametrize("lines", [[], LINES[:1], LINES[-1:], LINES])
def test_table_and_picture_are_drawn_of_whatever_the_log_has(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    log = Log(tmp_path)
    for each in lines:
        log.add(each, [])
    draw(log)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.md").read_text() == tables(lines)

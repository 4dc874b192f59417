"""`intarsia evaluate --report` and `--from`."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from evaluation_samples import rows_of, sample
from intarsia_client import Client, commands
from intarsia_client.evaluating import evaluate
from intarsia_client.report import writing
from intarsia_client.report.page import evaluation_report

Run = Callable[..., Result]
ARGUMENTS = ("base", "--data", "dates")


class Server:
    """Has one evaluation, and hands out its rows two at a time."""

    def __init__(self) -> None:
        self.evaluation = sample(metrics=["f1"])
        self.rows = rows_of(self.evaluation)
        self.begun: list[Any] = []
        self.asked_rows = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "POST", "/v1/evaluations":
                self.begun.append(json.loads(request.content))
                return httpx.Response(202, json=self.evaluation)
            case "GET", "/v1/evaluations/job-1":
                return httpx.Response(200, json=self.evaluation)
            case "GET", "/v1/evaluations/job-1/rows":
                return httpx.Response(200, json=self._page(request.url.params))
        return httpx.Response(404, json={"error": {"message": "no such thing"}})

    def _page(self, params: httpx.QueryParams) -> dict[str, Any]:
        self.asked_rows += 1
        rows = [row for row in self.rows if row["task"] == params["task"]]
        first = int(params["after"]) + 1
        after = first + 1 if first + 2 < len(rows) else None
        return {"data": rows[first : first + 2], "next_cursor": after}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in ("INTARSIA_URL", "INTARSIA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    transport = httpx.MockTransport(server)
    monkeypatch.setattr(commands, "Client", functools.partial(Client, transport=transport))
    return server


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(evaluate, [str(each) for each in arguments])


def test_an_earlier_evaluation_is_reported_with_its_examples(
    server: Server, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    result = run("--from", "job-1", "--report", path)
    assert result.exit_code == 1, "its bar is missed"
    assert result.stderr == f"Wrote {path}.\n"
    assert path.read_text("utf-8") == evaluation_report(server.evaluation, server.rows)
    assert [*tmp_path.iterdir()] == [path]
    assert not server.begun


def test_a_new_evaluation_is_reported(server: Server, run: Run, tmp_path: Path) -> None:
    server.evaluation["promotion"] = None
    path = tmp_path / "report.html"
    result = run(*ARGUMENTS, "--report", path)
    assert result.exit_code == 0, result.output
    assert len(server.begun) == 1
    assert "<h1>Evaluation</h1>" in path.read_text("utf-8")


def test_without_report_no_rows_are_asked_for(server: Server, run: Run) -> None:
    assert "dates@3" in run("--from", "job-1").stdout
    assert server.asked_rows == 0


def test_rows_of_a_task_are_asked_for_only_until_they_are_enough(
    server: Server, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MAX_PAGE", 2)
    run("--from", "job-1", "--report", tmp_path / "report.html")
    assert server.asked_rows == len(server.evaluation["datasets"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "needs a SUBJECT and --data, or --from"),
        (["base"], "needs a SUBJECT and --data, or --from"),
        (["--from", "job-1", "base"], "has its own subjects"),
        (["--from", "job-1", "--data", "dates"], "has its own data"),
        (["--from", "job-1", "--metric", "rouge_l"], "has its own metrics"),
        (["--from", "job-1", "--promote", "a@prod"], "has its own promote"),
        ([*ARGUMENTS, "--report", "r.html", "--detach"], "without --detach"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    server: Server, run: Run, arguments: list[str], reason: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, server.begun) == (2, [])
    assert reason in result.stderr


def test_a_report_that_cannot_be_written_is_told_before_anything_is_evaluated(
    server: Server, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(*ARGUMENTS, "--report", tmp_path / "nowhere" / "report.html")
    assert "there is no directory" in str(result.exception)
    monkeypatch.setattr(writing, "NEEDED", ("jinja2", "no_such_package"))
    result = run(*ARGUMENTS, "--report", tmp_path / "report.html")
    assert "pip install no_such_package" in str(result.exception)
    assert not server.begun

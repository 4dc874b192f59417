"""`intarsia evaluate` and both clients against a running server."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from evaluation_runs import jsonl, rows_of
from intarsia_client import AsyncClient, Client, Conflict, NotFound
from intarsia_client.evaluating import evaluate
from servers import RunningServer, paused_engine

MIX = json.dumps({"adapters": [{"id": "kinds/element"}, {"id": "kinds/bias"}], "name": "mix"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "small.jsonl"
    path.write_bytes(jsonl(rows_of(4)))
    return path


def run(server: RunningServer, data: Path | str, *args: str) -> Result:
    given = ["--url", server.url, "--data", str(data), "--max-tokens", "4", *args]
    return CliRunner().invoke(evaluate, given)


def test_a_table_of_results_is_printed(server: RunningServer, data: Path) -> None:
    result = run(server, data, "base", "kinds/element", MIX, "--metric", "f1", "--metric", "loss")
    assert result.exit_code == 0, result.output
    header, *lines = [line.split() for line in result.output.splitlines() if line.strip()]
    assert header == ["subject", "task", "n", "f1", "loss"]
    assert [line[:3] for line in lines] == [
        ["base", "small", "4"],
        ["kinds/element@1", "small", "4"],
        ["mix", "small", "4"],
    ]


def test_what_the_server_answered_is_printed(server: RunningServer, data: Path) -> None:
    result = run(server, data, "base", "--json", "--chat", "--limit", "2", "--stop", "x")
    shown = json.loads(result.output)
    assert (shown["prompt_mode"], shown["generation"]["stop"]) == ("chat", ["x"])
    assert shown["rows"] == {"done": 2, "total": 2}
    [kept] = shown["datasets"]
    again = run(server, kept["id"], "base", "--json")
    assert json.loads(again.output)["datasets"][0]["digest"] == kept["digest"]


@pytest.mark.parametrize(("delta", "code", "word"), [(-1000, 0, "moved"), (1000, 1, "stays")])
def test_the_exit_status_is_the_gates(
    server: RunningServer, data: Path, delta: int, code: int, word: str
) -> None:
    bar = ["--min-delta-over", f"base={delta}", "--min-rows", "1", "--metric", "loss"]
    alias = f"kinds/element@cli{delta}"
    result = run(server, data, "base", "kinds/element", "--promote", alias, *bar)
    assert result.exit_code == code, result.output
    assert f"{alias} {word}:" in result.output


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (["base", "--min", "3"], 2, "--promote"),
        (["base", "--data", "antonym:dev"], 2, "dev"),
        (["{"], 2, "SUBJECT"),
        ([], 2, "SUBJECT"),
    ],
)
def test_wrong_arguments_are_refused(
    server: RunningServer, data: Path, args: list[str], code: int, word: str
) -> None:
    result = run(server, data, *args)
    assert result.exit_code == code, result.output
    assert word in result.output


def test_a_detached_evaluation_is_named_and_can_be_cancelled(
    server: RunningServer, data: Path
) -> None:
    with Client(server.url) as client, paused_engine(server):
        name = run(server, data, "base", "--detach").output.strip()
        with pytest.raises(Conflict):
            client.delete_dataset(client.datasets(1)[0].id)
        assert client.cancel_evaluation(name).status == "cancelled"
        assert client.evaluations(1)[0].id == name


def test_both_clients_follow_an_evaluation(server: RunningServer, data: Path) -> None:
    async def follow() -> tuple[Any, Any]:
        async with AsyncClient(server.url) as client:
            kept = await client.upload_dataset(data, "followed")
            asked = [{"id": kept.id}]
            begun = await client.start_evaluation(["base"], asked, ["f1"])
            seen = [one async for one in client.watch_evaluation(begun.id)]
            rows = [row async for row in client.evaluation_rows(begun.id, page_size=3)]
            return seen, rows

    seen, rows = asyncio.run(follow())
    with Client(server.url) as client:
        assert list(client.watch_evaluation(seen[0].id)) == seen[-1:]
        assert list(client.evaluation_rows(seen[0].id)) == rows
        assert client.evaluation(seen[0].id) == seen[-1]
        dataset = client.dataset(client.datasets(1)[0].id)
        client.delete_dataset(dataset.id)
        with pytest.raises(NotFound):
            client.dataset(dataset.id)
    assert seen[-1].status == "succeeded"
    assert [row.position for row in rows] == [0, 1, 2, 3]

"""Evaluations over HTTP: pinned when they are taken in, behind live requests, told in any form."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from evaluation_runs import all_rows, begin, ended, evaluate, get, rows_of, until
from servers import RunningServer, paused_engine
from tiny_adapters import make_adapter

from server.api import evaluation_plans, evaluations

METRICS = ["rouge_l", "accuracy", "loss"]
SUBJECTS: list[Any] = [
    "base",
    "kinds/element",
    "kinds/low_rank@1",
    {"adapters": [{"id": "kinds/element", "weight": 0.5}, {"id": "kinds/bias"}], "name": "sum"},
    {
        "adapters": [{"id": "kinds/element"}, {"id": "kinds/low_rank"}],
        "merge": {"method": "ties", "density": 0.5},
    },
    {
        "adapters": [{"id": "kinds/element"}, {"id": "kinds/low_rank"}],
        "merge": {"method": "arrow"},
        "name": "routed",
    },
]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


@pytest.fixture(scope="module")
def matrix(client: httpx.Client) -> dict[str, Any]:
    """Every kind of subject on two data sets."""
    datasets = [
        {"rows": rows_of(5), "name": "first"},
        {"rows": [{**row, "prompt": "solid"} for row in rows_of(2)], "name": "second"},
    ]
    return evaluate(client, subjects=SUBJECTS, datasets=datasets, metrics=METRICS)


def outputs(http: httpx.Client, evaluation: str, **wanted: str) -> list[Any]:
    rows = all_rows(http, evaluation, **wanted)
    return [{name: row[name] for name in row if name != "position"} for row in rows]


def test_the_matrix_has_every_subject_on_every_task(
    client: httpx.Client, matrix: dict[str, Any]
) -> None:
    names = [subject["name"] for subject in matrix["subjects"]]
    assert names[:4] == ["base", "kinds/element@1", "kinds/low_rank@1", "sum"]
    assert matrix["rows"] == {"done": 7 * len(names), "total": 7 * len(names)}
    assert (matrix["progress"], matrix["seconds_left"], matrix["error"]) == (1.0, None, None)
    cells = [(each["subject"], each["task"], each["n"]) for each in matrix["results"]]
    assert cells == [(name, t, n) for name in names for t, n in (("first", 5), ("second", 2))]
    for each in matrix["results"]:
        assert each["metrics"].keys() == set(METRICS)
        for found in each["metrics"].values():
            assert found["low"] <= found["mean"] <= found["high"]
    assert {each["reference"] for each in matrix["comparisons"]} == {"base"}
    assert {each["subject"] for each in matrix["comparisons"]} == set(names[1:])
    rows = all_rows(client, matrix["id"])
    assert [row["position"] for row in rows] == list(range(len(rows)))
    assert [row["subject"] for row in rows[: len(names)]] == names  # adapters mix in a batch


@pytest.mark.parametrize("index", range(len(SUBJECTS)))
def test_a_subject_of_the_matrix_is_what_it_is_alone(
    client: httpx.Client, matrix: dict[str, Any], index: int
) -> None:
    alone = evaluate(
        client,
        subjects=[SUBJECTS[index]],
        dataset={"rows": rows_of(5), "name": "first"},
        metrics=METRICS,
    )
    name = matrix["subjects"][index]["name"]
    assert alone["subjects"] == [matrix["subjects"][index]]
    assert outputs(client, alone["id"]) == outputs(client, matrix["id"], subject=name, task="first")


def test_an_answer_is_what_a_completion_answers(
    client: httpx.Client, matrix: dict[str, Any], complete: Callable[..., Any]
) -> None:
    for row in all_rows(client, matrix["id"], subject="kinds/element@1", task="first"):
        made = complete(model="kinds/element", prompt=row["prompt"], max_tokens=4)["choices"][0]
        assert (row["output"], row["finish_reason"]) == (made["text"], made["finish_reason"])


def test_chat_mode_asks_as_chat_does(client: httpx.Client) -> None:
    found = evaluate(client, prompt_mode="chat", metrics=METRICS)
    for row in all_rows(client, found["id"]):
        message = {"role": "user", "content": row["prompt"]}
        body = {"model": "tiny", "messages": [message], "max_tokens": 4, "temperature": 0}
        answer = client.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert row["output"] == answer["message"]["content"]


def test_draws_are_the_same_for_the_same_seed_alone(client: httpx.Client) -> None:
    def drawn(seed: int) -> list[Any]:
        generation = {"max_tokens": 8, "temperature": 2.0, "seed": seed}
        found = evaluate(client, subjects=["base"], generation=generation)
        return [row["output"] for row in all_rows(client, found["id"])]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert len(set(first)) == len(first)


def test_a_limit_asks_a_seeded_sample_of_the_rows(client: httpx.Client) -> None:
    dataset = {"rows": rows_of(40)}

    def asked(seed: int) -> list[int]:
        found = evaluate(client, dataset=dataset, limit=6, seed=seed)
        assert found["datasets"][0]["rows"] == 6
        return [row["row"] for row in all_rows(client, found["id"])]

    first = asked(1)
    assert first == sorted(set(first))
    assert len(first) == 6
    assert first == asked(1) != asked(2)


def test_results_as_csv(client: httpx.Client, matrix: dict[str, Any]) -> None:
    path = f"/v1/evaluations/{matrix['id']}"
    asked = client.get(path, params={"format": "csv"})
    assert asked.headers["content-type"].startswith("text/csv")
    assert client.get(path, headers={"accept": "text/csv"}).text == asked.text
    lines = list(csv.DictReader(io.StringIO(asked.text)))
    assert len(lines) == len(METRICS) * (len(matrix["results"]) + len(matrix["overall"]))
    first = matrix["results"][0]
    assert lines[0]["subject"] == "base"
    assert float(lines[0]["mean"]) == first["metrics"][lines[0]["metric"]]["mean"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", " =1"])
def test_csv_holds_no_formula(client: httpx.Client, name: str) -> None:
    found = evaluate(client, subjects=[{"name": name}], dataset={"rows": rows_of(1), "name": name})
    text = client.get(f"/v1/evaluations/{found['id']}?format=csv").text
    [line, overall] = csv.DictReader(io.StringIO(text))
    assert (line["subject"], line["task"], overall["task"]) == (f"'{name}", f"'{name}", "")
    assert float(line["mean"]) == found["results"][0]["metrics"]["rouge_l"]["mean"]


def test_a_name_goes_before_what_was_asked(client: httpx.Client, server: RunningServer) -> None:
    client.patch("/v1/adapters/kinds/element", json={"aliases": {"prod": 1}})
    subjects = ["kinds/element@prod", {"name": "kinds/element@prod", "model": "kinds/bias"}]
    found = evaluate(client, subjects=subjects, reference="kinds/element@prod")
    assert found["reference"] == "kinds/element@prod"
    assert {each["subject"] for each in found["comparisons"]} == {"kinds/element@1"}


def test_rows_of_what_has_ended_can_be_dropped(client: httpx.Client, server: RunningServer) -> None:
    with paused_engine(server):
        evaluation = begin(client)
        early = client.delete(f"/v1/evaluations/{evaluation}/rows")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "evaluation_not_ended")
    before = ended(client, evaluation)
    assert all_rows(client, evaluation)
    for _ in range(2):
        assert client.delete(f"/v1/evaluations/{evaluation}/rows").json()["deleted"]
    assert all_rows(client, evaluation) == []
    assert get(client, evaluation) == before


def test_events_tell_progress_until_the_end(client: httpx.Client, server: RunningServer) -> None:
    events = []
    with paused_engine(server) as proceed:
        evaluation = begin(client, dataset={"rows": rows_of(70)})
        early = client.get(f"/v1/evaluations/{evaluation}?format=csv")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "evaluation_not_done")
        with client.stream("GET", f"/v1/evaluations/{evaluation}/events") as stream:
            for line in stream.iter_lines():
                proceed.set()
                if line.startswith("data: "):
                    events.append(line.removeprefix("data: "))
    assert events.pop() == "[DONE]"
    told = [json.loads(event) for event in events]
    done = [event["rows"]["done"] for event in told]
    assert done == sorted(done)
    assert told[0]["status"] in ("queued", "running")
    assert told[-1] == get(client, evaluation)
    assert told[-1]["status"] == "succeeded"


def test_a_quiet_stream_shows_that_it_lives(
    client: httpx.Client, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluations, "HEARTBEAT_S", 0.0)
    with paused_engine(server):
        path = f"/v1/evaluations/{begin(client)}/events"
        with client.stream("GET", path) as stream:
            signs = (line for line in stream.iter_lines() if line.startswith(":"))
            assert list(islice(signs, 3)) == [": still there"] * 3


def test_a_stream_ends_when_the_server_is_told_to_stop(
    client: httpx.Client, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with paused_engine(server):
        path = f"/v1/evaluations/{begin(client)}/events"
        with client.stream("GET", path) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            monkeypatch.setattr(server.services.stopping, "has_begun", True)
            assert "data: [DONE]" not in list(lines)


def test_an_evaluation_without_end_is_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_plans, "MAX_ROWS", 2)
    body = {"subjects": ["base"], "dataset": {"rows": rows_of(3)}, "metrics": ["f1"]}
    answer = client.post("/v1/evaluations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
    assert client.post("/v1/evaluations", json={**body, "limit": 2}).status_code == 202


def test_evaluations_are_listed_newest_first_and_are_jobs(
    client: httpx.Client, matrix: dict[str, Any]
) -> None:
    newest = evaluate(client)
    listed = client.get("/v1/evaluations", params={"limit": 1000}).json()["data"]
    assert listed[0] == newest
    assert matrix in listed
    assert client.get(f"/v1/jobs/{newest['id']}").json()["kind"] == "evaluation"


def test_more_than_one_evaluation_is_done_in_order(
    client: httpx.Client, server: RunningServer
) -> None:
    with paused_engine(server):
        submitted = [begin(client, seed=seed) for seed in range(3)]
        merged = client.post(
            "/v1/merges?wait=true",
            json={"name": "beside/evaluations", "adapters": [{"id": "kinds/element"}]},
        )
        assert merged.status_code == 201, "a merge waits for no evaluation"
    found = [ended(client, evaluation) for evaluation in submitted]
    assert [each["status"] for each in found] == ["succeeded"] * 3
    times = [each["updated"] for each in found]
    assert times == sorted(times)


def test_a_cancelled_evaluation_lets_go_of_its_rows_in_flight(
    client: httpx.Client, server: RunningServer
) -> None:
    with paused_engine(server):
        evaluation = begin(
            client, subjects=["base", "kinds/element"], dataset={"rows": rows_of(50)}
        )
        until(lambda: server.held()["running"] > 0)
        gone = client.delete(f"/v1/evaluations/{evaluation}").json()
        assert (gone["status"], gone["results"]) == ("cancelled", None)
    server.assert_idle()
    left = get(client, evaluation)
    assert (left["status"], left["seconds_left"]) == ("cancelled", None)
    assert client.delete(f"/v1/evaluations/{evaluation}").json()["status"] == "cancelled"


def test_live_requests_are_answered_beside_an_evaluation(
    client: httpx.Client, complete: Callable[..., Any]
) -> None:
    before = complete(model="kinds/low_rank")
    evaluation = begin(client, subjects=SUBJECTS, dataset={"rows": rows_of(40)})
    for _ in range(3):
        assert complete(model="kinds/low_rank")["choices"] == before["choices"]
    assert get(client, evaluation)["status"] in ("queued", "running")
    assert client.delete(f"/v1/evaluations/{evaluation}").status_code == 200


def test_an_alias_that_moves_later_changes_nothing(
    client: httpx.Client, server: RunningServer
) -> None:
    for seed in (1, 2):
        server.upload(make_adapter(server.base, seed=seed), "evaluated/winner")
    client.patch("/v1/adapters/evaluated/winner", json={"aliases": {"prod": 1}})
    expected = evaluate(client, subjects=["evaluated/winner@1"])
    with paused_engine(server):
        evaluation = begin(client, subjects=["evaluated/winner@prod"])
        client.patch("/v1/adapters/evaluated/winner", json={"aliases": {"prod": 2}})
    found = ended(client, evaluation)
    assert found["subjects"][0]["id"] == "evaluated/winner@1"
    assert outputs(client, evaluation) == outputs(client, expected["id"])
    changed = evaluate(client, subjects=["evaluated/winner@prod"])
    assert outputs(client, changed["id"]) != outputs(client, evaluation)


def test_an_evaluation_of_a_deleted_adapter_says_so(
    client: httpx.Client, server: RunningServer
) -> None:
    server.publish("evaluated/leaving", seed=77)
    with paused_engine(server):
        first = begin(client)
        second = begin(client, subjects=["evaluated/leaving"])
        assert client.delete("/v1/adapters/evaluated/leaving").status_code == 200
    assert ended(client, first)["status"] == "succeeded"
    failed = ended(client, second)
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "subject_gone"
    assert "evaluated/leaving@1" in failed["error"]["message"]


def test_built_in_tasks_are_read_where_they_were_built(
    client: httpx.Client, server: RunningServer
) -> None:
    missing = client.post(
        "/v1/evaluations",
        json={"subjects": ["base"], "dataset": {"task": "antonym"}, "metrics": ["rouge_l"]},
    )
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "task_not_built")
    assert "intarsia tasks build --task antonym" in missing.json()["error"]["message"]
    folder: Path = server.settings.data_dir / "tasks" / "antonym"
    folder.mkdir(parents=True)
    row = {"task": "antonym", "prompt": "up", "target": "down"}
    (folder / "validation.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "task.json").write_text("{}")
    found = evaluate(client, dataset={"task": "antonym", "split": "validation"})
    assert found["results"][0]["task"] == "antonym"
    assert found["results"][0]["n"] == 1


def test_rows_and_seconds_are_counted(client: httpx.Client) -> None:
    def count() -> float:
        lines = client.get("/metrics").text.splitlines()
        [line] = [each for each in lines if each.startswith("intarsia_evaluation_rows_total")]
        return float(line.rpartition(" ")[2])

    before = count()
    evaluate(client)
    assert count() == before + 3

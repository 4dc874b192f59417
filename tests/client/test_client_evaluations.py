"""Evaluations over either client: what is sent, and how progress and rows are read."""

import inspect
import json
from typing import Any

import httpx
import pytest
from intarsia_client import ConnectionFailed, InvalidArgument
from intarsia_client.async_evaluations import AsyncEvaluationMethods
from intarsia_client.evaluations import EvaluationMethods

SCORE = {"mean": 50.0, "low": 40.0, "high": 60.0}
PROGRESS = {
    "id": "job-1",
    "object": "evaluation",
    "status": "running",
    "progress": 0.5,
    "rows": {"done": 1, "total": 2},
    "rows_per_second": 2.0,
    "seconds": 0.5,
    "seconds_left": 0.5,
}
RESULT = {"subject": "base", "task": "t", "metrics": {"f1": SCORE}, "n": 2}
DONE = {
    **PROGRESS,
    "status": "succeeded",
    "progress": 1.0,
    "results": [RESULT],
    "overall": [{**RESULT, "task": None}],
    "comparisons": [],
    "promotion": None,
    "error": None,
    "newer": 1,
}


def test_what_is_none_is_left_to_the_server(drive: Any) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/evaluations")
        assert json.loads(request.content) == {
            "subjects": ["base", {"adapters": [{"id": "a"}]}],
            "datasets": [{"task": "t"}],
            "metrics": ["f1"],
            "seed": 3,
        }
        return httpx.Response(202, json=PROGRESS)

    subjects = ["base", {"adapters": [{"id": "a"}]}]
    options = {"seed": 3, "limit": None, "promote": None}
    found = drive(handler, "start_evaluation", subjects, [{"task": "t"}], ["f1"], **options)
    assert (found.id, found.rows_done, found.rows_total) == ("job-1", 1, 2)
    assert (found.has_ended, found.results) == (False, ())


@pytest.mark.parametrize(
    ("method", "verb"), [("evaluation", "GET"), ("cancel_evaluation", "DELETE")]
)
def test_an_evaluation_is_read(drive: Any, method: str, verb: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.raw_path) == (verb, b"/v1/evaluations/a%2Fb")
        return httpx.Response(200, json=DONE)

    found = drive(handler, method, "a/b")
    assert found.has_ended
    assert (found.results, found.raw["newer"]) == ((RESULT,), 1)


def test_progress_is_read_event_by_event(drive: Any) -> None:
    events = f"data: {json.dumps(PROGRESS)}\n\n: still there\n\ndata: {json.dumps(DONE)}\n\n"

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/evaluations/job-1/events"
        return httpx.Response(200, text=events + "data: [DONE]\n\n")

    assert [one.status for one in drive(handler, "watch_evaluation", "job-1")] == [
        "running",
        "succeeded",
    ]
    with pytest.raises(ConnectionFailed, match="before"):
        drive(lambda _: httpx.Response(200, text=events), "watch_evaluation", "job-1")


def test_rows_are_read_page_by_page(drive: Any) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        assert request.url.params["subject"] == "base"
        assert "task" not in request.url.params
        row = {"position": after + 1, "subject": "base", "task": "t", "row": 0, "prompt": None}
        cursor = after + 1 if after < 1 else None
        data = [{**row, "output": "x", "scores": {"f1": 1.0}}]
        return httpx.Response(200, json={"data": data, "next_cursor": cursor})

    rows = drive(handler, "evaluation_rows", "job-1", subject="base")
    assert [row.position for row in rows] == [0, 1, 2]
    assert rows[0].scores == {"f1": 1.0}


@pytest.mark.parametrize("method", ["evaluation", "dataset", "delete_dataset"])
@pytest.mark.parametrize("name", ["", ".", ".."])
def test_id_that_would_name_another_path_is_refused(drive: Any, method: str, name: str) -> None:
    with pytest.raises(InvalidArgument, match="names nothing"):
        drive(lambda _: pytest.fail("it was sent"), method, name)


def test_both_clients_have_the_same_methods() -> None:
    names = {name for name in vars(EvaluationMethods) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncEvaluationMethods) if not name.startswith("_")}
    for name in names:
        methods = (getattr(kind, name) for kind in (EvaluationMethods, AsyncEvaluationMethods))
        first, second = (inspect.signature(method).parameters for method in methods)
        assert list(first.values()) == list(second.values()), name

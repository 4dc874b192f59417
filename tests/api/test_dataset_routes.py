"""Data sets: uploaded, found by content, refused by row and field, removed when nobody reads."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from evaluation_runs import begin, ended, jsonl, rows_of
from servers import RunningServer, paused_engine, running_server

JSONL = {"content-type": "application/jsonl"}
GOOD = {"prompt": "a", "target": "b"}


def upload(http: httpx.Client, content: bytes, name: str | None = None) -> httpx.Response:
    form = {} if name is None else {"name": name}
    return http.post("/v1/datasets", files={"file": ("rows.jsonl", content)}, data=form)


def test_form_and_plain_body_are_the_same_data_set(http: httpx.Client) -> None:
    rows = jsonl([{"prompt": "form or body", "target": ["x", "y"]}])
    first = upload(http, rows, "mine")
    assert first.status_code == 201
    shown = first.json()
    assert (shown["object"], shown["name"], shown["rows"]) == ("dataset", "mine", 1)
    assert shown["digest"].removeprefix("sha256:").startswith(shown["id"].removeprefix("data-"))
    spaced = rows.replace(b":", b" : ") + b"\n\n"
    again = http.post("/v1/datasets?name=other", content=spaced, headers=JSONL)
    assert (again.status_code, again.json()) == (200, shown)
    assert http.get(f"/v1/datasets/{shown['id']}").json() == shown
    assert shown in http.get("/v1/datasets").json()["data"]


def test_a_deleted_data_set_is_gone(http: httpx.Client) -> None:
    path = f"/v1/datasets/{upload(http, jsonl([{'prompt': 'gone', 'target': 'x'}])).json()['id']}"
    assert http.delete(path).json()["deleted"]
    for answer in (http.get(path), http.delete(path)):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "dataset_not_found"


def test_a_data_set_is_kept_while_an_evaluation_reads_it(
    http: httpx.Client, server: RunningServer
) -> None:
    dataset = upload(http, jsonl(rows_of(5))).json()["id"]
    with paused_engine(server):
        evaluation = begin(http, dataset={"id": dataset})
        refused = http.delete(f"/v1/datasets/{dataset}")
        assert refused.status_code == 409
        assert evaluation in refused.json()["error"]["message"]
    assert ended(http, evaluation)["status"] == "succeeded"
    assert http.delete(f"/v1/datasets/{dataset}").status_code == 200
    rows = http.get(f"/v1/evaluations/{evaluation}/rows").json()["data"]
    assert [row["prompt"] for row in rows] == [None] * 5
    assert all(row["output"] is not None for row in rows)


BAD_UPLOADS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["no rows"]),
    "only blank lines": (b"\n\n", ["no rows"]),
    "missing prompt": (jsonl([GOOD, {"target": "x"}]), ["row 2", "prompt", "missing"]),
    "missing target": (jsonl([{"prompt": "x"}]), ["row 1", "target", "missing"]),
    "empty prompt": (jsonl([{**GOOD, "prompt": " "}]), ["row 1", "prompt", "empty"]),
    "number for text": (jsonl([{**GOOD, "prompt": 3}]), ["row 1", "prompt", "text"]),
    "unknown field": (jsonl([GOOD, {**GOOD, "answer": "x"}]), ["row 2", "answer"]),
    "one choice": (jsonl([{**GOOD, "choices": ["b"]}]), ["row 1", "choices"]),
    "target not a choice": (jsonl([{**GOOD, "choices": ["c", "d"]}]), ["row 1", "target"]),
    "no object": (b"[1]\n", ["row 1", "object"]),
    "no JSON": (jsonl([GOOD]) + b"{\n", ["row 2", "JSON"]),
    "wrong encoding": (jsonl([GOOD]) + '{"prompt": "é"}'.encode("latin-1"), ["row 2", "UTF-8"]),
    "UTF-16": (jsonl([GOOD]).decode().encode("utf-16"), ["row 1", "UTF-8"]),
    "deep": (b"[" * 100_000 + b"\n", ["row 1", "JSON"]),
}


@pytest.mark.parametrize(("content", "told"), BAD_UPLOADS.values(), ids=BAD_UPLOADS)
def test_a_bad_row_is_named_with_its_field(
    http: httpx.Client, content: bytes, told: list[str]
) -> None:
    before = http.get("/v1/datasets").json()
    answer = upload(http, content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert [word for word in told if word not in error["message"]] == []
    assert http.get("/v1/datasets").json() == before


def test_a_row_of_a_hundred_megabytes_is_named_and_not_read_whole(http: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        yield jsonl([GOOD]) + b'{"target": "x", "prompt": "'
        for _ in range(100):
            yield b"x" * (1 << 20)
        yield b'"}\n'

    answer = http.post("/v1/datasets", content=body(), headers=JSONL)
    assert answer.status_code == 400
    assert "row 2: has more than 1,048,576 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("request_of", "status", "code"),
    [
        ({"json": [GOOD]}, 415, "unsupported_media_type"),
        ({"content": b"", "headers": {"content-type": "text/csv"}}, 415, "unsupported_media_type"),
        ({"files": {"other": ("x", b"")}}, 400, "bad_request"),
        ({"files": {"file": ("x", b"{}")}, "data": {"name": "\n"}}, 400, "bad_request"),
    ],
)
def test_what_is_no_upload_is_refused(
    http: httpx.Client, request_of: dict[str, Any], status: int, code: str
) -> None:
    answer = http.post("/v1/datasets", **request_of)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_data_set_beyond_the_limit_is_refused(tiny_base: Any) -> None:
    with running_server(tiny_base, max_dataset_bytes=1000) as small, small.http() as http:
        row = jsonl([{"prompt": "x" * 900, "target": "y"}])
        assert upload(http, row).status_code == 201
        for answer in (
            upload(http, row + row),
            http.post("/v1/datasets", content=row + row, headers=JSONL),
        ):
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "dataset_too_large"

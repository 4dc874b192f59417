"""Evaluations over HTTP for tests: submitted, awaited, and read whole."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

DEADLINE_S = 60.0
TICK_S = 0.02
ENDED = ("succeeded", "failed", "cancelled")


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows with a target and choices."""
    return [
        {"prompt": f"setting {i} pieces", "target": "small", "choices": ["small", "into a solid"]}
        for i in range(count)
    ]


def jsonl(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def begin(http: httpx.Client, **fields: Any) -> str:
    """Submit an evaluation; its id. Three rows, rouge_l and 4 tokens unless told."""
    chosen = {} if {"dataset", "datasets"} & fields.keys() else {"dataset": {"rows": rows_of(3)}}
    defaults = {"subjects": ["base"], "metrics": ["rouge_l"], "generation": {"max_tokens": 4}}
    answer = http.post("/v1/evaluations", json={**defaults, **chosen, **fields})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/evaluations/{answer.json()['id']}"
    return str(answer.json()["id"])


def get(http: httpx.Client, evaluation: str) -> dict[str, Any]:
    answer = http.get(f"/v1/evaluations/{evaluation}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def until(is_so: Callable[[], bool]) -> None:
    """Return once it is so; AssertionError if it never is."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        threading.Event().wait(TICK_S)


def ended(http: httpx.Client, evaluation: str) -> dict[str, Any]:
    """The evaluation once it has ended."""
    until(lambda: get(http, evaluation)["status"] in ENDED)
    return get(http, evaluation)


def evaluate(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """`begin`, awaited and succeeded."""
    found = ended(http, begin(http, **fields))
    assert found["status"] == "succeeded", found["error"]
    return found


def all_rows(http: httpx.Client, evaluation: str, **wanted: str) -> list[dict[str, Any]]:
    """Every row, page by page."""
    found: list[dict[str, Any]] = []
    after = -1
    while True:
        params: dict[str, Any] = {"limit": 7, "after": after, **wanted}
        page = http.get(f"/v1/evaluations/{evaluation}/rows", params=params).json()
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        after = page["next_cursor"]

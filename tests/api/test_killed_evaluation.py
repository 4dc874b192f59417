"""`kill -9` in an evaluation: the next server goes on with it, and row by row it is the same."""

import signal
from pathlib import Path
from typing import Any

import httpx
from api.processes import ServerProcess, server_process
from evaluation_runs import all_rows, begin, ended, get, rows_of, until
from servers import file_bytes
from tiny_adapters import make_adapter

from server.model.checkpoint import open_checkpoint
from server.model.identity import base_identity

NUM_ROWS = 45
SUBJECTS: list[Any] = ["base", "one", {"adapters": [{"id": "one"}, {"id": "two"}], "name": "sum"}]


def publish(http: httpx.Client, tiny_base: Path) -> None:
    identity = base_identity("tiny", open_checkpoint(str(tiny_base)), None)
    for seed, name in enumerate(("one", "two")):
        file = {"file": file_bytes(make_adapter(identity, seed=seed))}
        assert http.post("/v1/adapters", data={"name": name}, files=file).status_code == 201


def begin_long(http: httpx.Client) -> str:
    return begin(
        http,
        subjects=SUBJECTS,
        dataset={"rows": rows_of(NUM_ROWS)},
        metrics=["rouge_l", "accuracy", "loss"],
        generation={"max_tokens": 24, "temperature": 0.7},
    )


def kill(process: ServerProcess) -> None:
    assert process.process.pid is not None
    process.process.kill()
    process.process.join()
    assert process.process.exitcode == -signal.SIGKILL


def test_a_killed_evaluation_goes_on_and_ends_as_one_that_was_not(
    tiny_base: Path, tmp_path: Path
) -> None:
    with server_process(tiny_base, tmp_path) as first:
        first.wait_until_ready()
        with httpx.Client(base_url=first.url, timeout=60) as http:
            publish(http, tiny_base)
            evaluation = begin_long(http)
            until(lambda: get(http, evaluation)["rows"]["done"] >= 30)
            before = all_rows(http, evaluation)
            kill(first)
    assert len(before) < NUM_ROWS * len(SUBJECTS), "it was over before it was killed"
    with server_process(tiny_base, tmp_path) as second:
        second.wait_until_ready()
        with httpx.Client(base_url=second.url, timeout=60) as http:
            assert get(http, evaluation)["rows"]["done"] >= len(before)
            resumed = ended(http, evaluation)
            assert resumed["status"] == "succeeded", resumed["error"]
            rows = all_rows(http, evaluation)
            assert [row["position"] for row in rows] == list(range(NUM_ROWS * len(SUBJECTS)))
            assert [row for row in rows if row in before] == before
            whole = ended(http, begin_long(http))
            assert all_rows(http, whole["id"]) == rows
            for part in ("results", "overall", "comparisons"):
                assert whole[part] == resumed[part]

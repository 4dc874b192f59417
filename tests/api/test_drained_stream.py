"""SIGTERM, as `docker stop` and Kubernetes send it: what was begun is finished, then it ends."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api.processes import server_process

TOKENS = 100


def events(response: httpx.Response) -> Iterator[str]:
    """The data of each server-sent event."""
    lines = response.iter_lines()
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def test_a_server_that_is_told_to_stop_finishes_its_streams(
    tiny_base: Path, tmp_path: Path
) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": "small", "max_tokens": TOKENS, "n": 4}
    body |= {"stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
    with server_process(tiny_base, tmp_path) as server:
        server.wait_until_ready()
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            received = events(stream)
            first = next(received)
            assert server.process.pid is not None
            os.kill(server.process.pid, signal.SIGTERM)
            *rest, done = received
        server.process.join(60)
        # The signal ends it in the end, so that who sent it can tell; as process 1, status is 0.
        assert server.process.exitcode == -signal.SIGTERM
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health/live")
    answers = [json.loads(event) for event in (first, *rest)]
    choices = [choice for answer in answers for choice in answer["choices"]]
    reasons = {c["index"]: c["finish_reason"] for c in choices if c["finish_reason"]}
    assert done == "[DONE]"
    assert reasons == dict.fromkeys(range(4), "length")
    assert answers[-1]["usage"]["completion_tokens"] == 4 * TOKENS
    assert "Traceback" not in server.log.read_text()

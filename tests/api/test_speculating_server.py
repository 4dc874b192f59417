"""A server that guesses tokens ahead gives the same answers, several tokens to a chunk at times."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import BASE_NAME, RunningServer, running_server

PATHS = ("completions", "chat/completions")
PROMPT = "setting small pieces " * 4
BIAS = {str(token): 100.0 for token in (70, 71, 72)}  # an answer of few different tokens


@pytest.fixture(scope="module")
def server(tiny_base: Path) -> Iterator[RunningServer]:
    with running_server(tiny_base, speculation=6) as server:
        yield server
        server.assert_idle()


@pytest.fixture(scope="module")
def plain(tiny_base: Path) -> Iterator[RunningServer]:
    with running_server(tiny_base) as server:
        yield server


def body(path: str, **fields: Any) -> dict[str, Any]:
    chat = "chat" in path
    asked = {"messages": [{"role": "user", "content": PROMPT}]} if chat else {"prompt": PROMPT}
    logprobs = {"logprobs": True, "top_logprobs": 2} if chat else {"logprobs": 2}
    common = {"model": BASE_NAME, "max_tokens": 40, "logit_bias": BIAS, "seed": 5}
    return {**common, **asked, **logprobs, **fields}


def answered(server: RunningServer, path: str, **fields: Any) -> tuple[Any, Any]:
    with server.http() as http:
        answer = http.post(f"/v1/{path}", json=body(path, **fields))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"], answer.json()["usage"]["completion_tokens"]


def chunks(http: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = body(path, stream=True, stream_options=options, **fields)
    lines = http.post(f"/v1/{path}", json=asked).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": 0.8}, {"temperature": 0.8, "n": 3}, {"stop": ["GHG"]}],
    ids=["greedy", "drawn", "three choices", "stopped"],
)
def test_answers_are_the_same(
    server: RunningServer, plain: RunningServer, path: str, fields: dict[str, Any]
) -> None:
    assert answered(server, path, **fields) == answered(plain, path, **fields)


@pytest.mark.parametrize("path", PATHS)
def test_chunks_of_several_tokens_are_the_answer(server: RunningServer, path: str) -> None:
    (choice,), num_tokens = answered(server, path, temperature=0.3)
    with server.http() as http:
        *pieces, final = chunks(http, path, temperature=0.3)
    told = [piece["usage"]["completion_tokens"] for piece in pieces]
    assert told == sorted(told)
    assert told[-1] == final["usage"]["completion_tokens"] == num_tokens
    assert max(after - before for before, after in pairwise(told)) > 1
    shown = [piece["choices"][0] for piece in pieces]
    assert [one["finish_reason"] for one in shown] == [None] * (len(shown) - 1) + ["length"]
    if path == "completions":
        assert "".join(one["text"] for one in shown) == choice["text"]
        for part, values in choice["logprobs"].items():
            assert [v for one in shown for v in one["logprobs"][part]] == values
    else:
        text = "".join(one["delta"].get("content", "") for one in shown)
        assert text == choice["message"]["content"]
        entries = [e for one in shown for e in (one["logprobs"] or {"content": []})["content"]]
        assert entries == choice["logprobs"]["content"]


def test_guesses_and_latencies_are_counted(server: RunningServer) -> None:
    before = counted(server)
    _, num_tokens = answered(server, "completions", temperature=0)
    after = counted(server)
    drafted, accepted, generated, gaps = (
        now - then for now, then in zip(after, before, strict=True)
    )
    assert 0 < accepted <= drafted
    assert generated == num_tokens
    assert gaps == num_tokens - 1


def counted(server: RunningServer) -> list[float]:
    names = (
        "intarsia_spec_decode_num_draft_tokens_total",
        "intarsia_spec_decode_num_accepted_tokens_total",
        "intarsia_generation_tokens_total",
        "intarsia_inter_token_latency_seconds_count",
    )
    with server.http() as http:
        lines = http.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return [float(values[name]) for name in names]

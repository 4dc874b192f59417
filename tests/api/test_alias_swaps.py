"""An alias that moves while streams run: every answer is wholly one version's, none is stale."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
from servers import RunningServer

NUM_STREAMS = 16
NUM_SWAPS = 50
BODY: dict[str, Any] = {
    "prompt": "0123456789" * 5,  # three pages that the prefix cache would answer with
    "max_tokens": 12,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
}


class Answer(NamedTuple):
    digest: str
    text: str


def ask(http: httpx.Client, model: str, **fields: str) -> Answer:
    body = {**BODY, "model": model, **fields}
    with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert all("error" not in chunk for chunk in chunks), chunks[-1]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    return Answer(response.headers["x-intarsia-digest"], text)


def until(done: Callable[[], bool], http: httpx.Client) -> list[Answer]:
    answers = []
    while not done():
        answers.append(ask(http, "swapped@prod"))
    return answers


def test_50_swaps_under_16_streams_fail_nothing_and_mix_nothing(server: RunningServer) -> None:
    versions = [server.publish("swapped", "element", seed) for seed in (71, 72)]
    with server.http() as http, ThreadPoolExecutor(NUM_STREAMS) as pool:
        move(http, 1)
        # A salt of its own: what a version says without any page that another has made.
        alone = dict(ask(http, version, cache_salt=version) for version in versions)
        assert len(set(alone.values())) == 2
        num_swaps = 0
        streams = [
            pool.submit(until, lambda: num_swaps == NUM_SWAPS, http) for _ in range(NUM_STREAMS)
        ]
        while num_swaps < NUM_SWAPS:
            move(http, 2 - num_swaps % 2)
            assert ask(http, "swapped@prod").digest == list(alone)[1 - num_swaps % 2]
            num_swaps += 1
        answers = [answer for stream in streams for answer in stream.result()]
    assert all(alone[answer.digest] == answer.text for answer in answers)
    assert {answer.digest for answer in answers} == set(alone)


def move(http: httpx.Client, version: int) -> None:
    response = http.patch("/v1/adapters/swapped", json={"aliases": {"prod": version}})
    assert response.status_code == 200, response.text

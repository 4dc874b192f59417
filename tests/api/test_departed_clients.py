"""A client that goes away, at any moment and in any number, leaves nothing held."""

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from api.conftest import kind_names
from servers import BASE_NAME, RunningServer, paused_engine, running_server

NAMES = [BASE_NAME, *kind_names().values()]
NUM_EVENTS = 100
NUM_STEADY = 10
BODY: dict[str, Any] = {
    "prompt": "setting",
    "max_tokens": 100,
    "temperature": 0,
    "ignore_eos": True,
}
Ask = Callable[..., Any]


def _num_aborted(server: RunningServer) -> int:
    return server.services.engine.stats().finished["abort"]


@pytest.mark.parametrize("model", [BASE_NAME, kind_names()["element"]])
def test_a_stream_closed_after_its_first_chunk_is_aborted(
    server: RunningServer, http: httpx.Client, model: str
) -> None:
    before = _num_aborted(server)
    body = {**BODY, "model": model, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    server.assert_idle()
    assert _num_aborted(server) == before + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_client_that_leaves_before_the_first_token_is_noticed(
    server: RunningServer, stream: bool, path: str
) -> None:
    before = _num_aborted(server)
    body = {**BODY, "messages": [{"role": "user", "content": "x"}], "stream": stream, "n": 3}
    body.pop("prompt" if path.startswith("chat") else "messages")
    with paused_engine(server):
        with socket.create_connection(
            (httpx.URL(server.url).host, httpx.URL(server.url).port)
        ) as raw:
            request = httpx.Request(
                "POST", f"{server.url}/v1/{path}", json={**body, "model": NAMES[1]}
            )
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            raw.sendall(f"POST /v1/{path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
            server.wait_for(**{"answers under way": 1, "pins": 3})
        server.wait_for(**{"answers under way": 0})
    server.assert_idle()
    assert _num_aborted(server) == before + 3


def test_departures_under_load_leave_nothing_and_change_nothing(
    server: RunningServer, complete: Ask
) -> None:
    alone = {name: complete(**BODY, model=name)["choices"][0]["text"] for name in NAMES}
    before, source = _num_aborted(server), random.Random(11)

    async def steady(http: httpx.AsyncClient, name: str) -> tuple[str, str]:
        answer = await http.post("/v1/completions", json={**BODY, "model": name})
        return name, answer.json()["choices"][0]["text"]

    async def departing(
        http: httpx.AsyncClient, stream: bool, patience: float | None, chunks: int
    ) -> None:
        """Leaves after `chunks` lines, or in the middle of anything when patience runs out."""
        body = {**BODY, "model": source.choice(NAMES), "stream": stream, "n": source.choice([1, 2])}
        async with asyncio.timeout(patience):
            async with http.stream("POST", "/v1/completions", json=body) as response:
                lines = response.aiter_lines()
                for _ in range(chunks):
                    await anext(lines)

    async def load() -> tuple[list[tuple[str, str]], list[Any]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as http:
            events = [
                departing(
                    http,
                    stream=source.random() < 0.7,
                    patience=source.uniform(0, 0.8) if index % 2 else None,
                    chunks=source.randrange(1, 20),
                )
                for index in range(NUM_EVENTS)
            ]
            staying = [steady(http, NAMES[i % len(NAMES)]) for i in range(NUM_STEADY)]
            gone = asyncio.gather(*events, return_exceptions=True)
            return await asyncio.gather(*staying), await gone

    texts, gone = asyncio.run(load())
    server.assert_idle()
    assert all(text == alone[name] for name, text in texts)
    assert all(isinstance(end, TimeoutError | StopAsyncIteration | None) for end in gone), gone
    departed = [end for end in gone if not isinstance(end, StopAsyncIteration)]
    assert len(departed) > NUM_EVENTS / 2
    # Of the patient half, the streams; how many of the others are heard at all depends on the load.
    assert _num_aborted(server) - before > NUM_EVENTS / 4


def test_a_graceful_stop_lets_streams_end_and_refuses_what_comes_later(tiny_base: Path) -> None:
    with running_server(tiny_base) as server, server.http() as http:
        body = {**BODY, "model": BASE_NAME, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            events = [next(lines)]
            server.stop()
            events += [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in events[-2]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health/live")
    assert not server.services.engine.is_running
    server.assert_idle()


def test_a_stopped_engine_answers_unready_and_unavailable(tiny_base: Path) -> None:
    with running_server(tiny_base) as server, server.http() as http:
        assert http.get("/health/ready").json() == {"status": "ready"}
        server.services.engine.stop()
        for response in (
            http.get("/health/ready"),
            http.post("/v1/completions", json={"prompt": "x"}),
        ):
            assert response.status_code == 503
            assert response.json()["error"]["code"] in ("not_ready", "stopping")
        assert http.get("/health/live").status_code == 200

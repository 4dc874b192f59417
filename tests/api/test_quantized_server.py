"""A server of a quantized base: says so, and serves adapters beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import BASE_NAME, RunningServer, running_server
from tiny_adapters import make_adapter

PROMPT = "setting small pieces into a surface"


@pytest.fixture(scope="module")
def server(tiny_base: Path) -> Iterator[RunningServer]:
    with running_server(tiny_base, quantization="int8") as server:
        yield server
        server.assert_idle()


def completed(http: httpx.Client, model: str) -> Any:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 1}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_version_tells_the_numerics_class(server: RunningServer) -> None:
    with server.http() as http:
        numerics = http.get("/version").json()["numerics"]
    assert "quantization=int8;kernels=cpu-int8/1" in numerics
    assert numerics == server.engine.config.numerics


def test_adapters_are_served_beside_a_quantized_base(server: RunningServer) -> None:
    for name, kind in {"element": "element", "block": "block 16x16", "low": "low_rank"}.items():
        server.upload(make_adapter(server.base, kind), name)
        with server.http() as http:
            assert completed(http, name)["logprobs"] != completed(http, BASE_NAME)["logprobs"]


def test_answers_differ_from_fp32_by_the_weights_alone(
    server: RunningServer, tiny_base: Path
) -> None:
    with running_server(tiny_base) as exact, exact.http() as http:
        expected = completed(http, BASE_NAME)["logprobs"]["token_logprobs"]
    with server.http() as http:
        found = completed(http, BASE_NAME)["logprobs"]["token_logprobs"]
    assert found != expected
    assert found[0] == pytest.approx(expected[0], abs=0.3)

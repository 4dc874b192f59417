"""Bad generation requests: each refused by name and value, without harm to others."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from api.bad_requests import TABLE, Bad
from servers import RunningServer
from tiny_adapters import make_adapter

from adapters_store.adapter import DenseDelta, SparseAdapter

ERROR_KEYS = {"message", "type", "param", "code"}
Ask = Callable[..., Any]


def _send(http: httpx.Client, bad: Bad) -> httpx.Response:
    headers = {"content-type": bad.content_type} if bad.content_type else {}
    return http.post(bad.path, content=bad.content, headers=headers)


@pytest.mark.parametrize("case", TABLE)
def test_a_bad_request_is_refused_by_field_and_value(http: httpx.Client, case: str) -> None:
    bad = TABLE[case]
    response = _send(http, bad)
    assert response.status_code == bad.status, response.text
    error = response.json()["error"]
    assert error.keys() >= ERROR_KEYS
    assert error["param"] == bad.param, error
    assert bad.says in error["message"]
    assert len(error["message"]) < 12_000


def test_a_chunked_body_over_the_limit_is_refused(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b" " * 65536] * 20

    response = http.post(
        "/v1/completions", content=chunks(), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_bad_requests_do_not_disturb_a_running_stream(
    http: httpx.Client, server: RunningServer, complete: Ask
) -> None:
    ask = {"max_tokens": 100, "ignore_eos": True}
    alone = complete(**ask)["choices"][0]["text"]
    body = {"model": "tiny", "prompt": "setting", "temperature": 0, "stream": True, **ask}
    with http.stream("POST", "/v1/completions", json=body) as response, server.http() as other:
        lines = response.iter_lines()
        events = [next(lines)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda bad: _send(other, bad).status_code, TABLE.values()))
        events += lines
    assert answers == [bad.status for bad in TABLE.values()]
    chunks = [json.loads(line[6:]) for line in events if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == alone


def test_text_with_nul_characters_is_served(complete: Ask) -> None:
    answer = complete(prompt="a\0b", stop="\0", cache_salt="\0", user="\0")
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")


def test_unknown_fields_are_ignored_and_named(http: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1, "zeta": 1, "é\n": 2, "tools": []}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200
    assert response.headers["x-intarsia-ignored-fields"] == "tools,zeta,%C3%A9%0A"


def test_many_unknown_fields_do_not_swell_the_header(http: httpx.Client) -> None:
    body = {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": 1,
        **{f"{i}{'z' * 500}": 1 for i in range(500)},
    }
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200
    assert len(response.headers["x-intarsia-ignored-fields"]) < 4000


def test_an_adapter_that_overflows_harms_nobody_else(server: RunningServer, complete: Ask) -> None:
    good = complete(max_tokens=40)
    base = make_adapter(server.base, "dense")
    deltas = tuple(
        DenseDelta(layer=delta.layer, shape=delta.shape, delta=torch.full(delta.shape, 3e38))
        for delta in base.deltas
    )
    server.upload(SparseAdapter(base.base_name, base.base, deltas, {}), "overflow")
    body = {"model": "overflow", "prompt": "setting", "max_tokens": 20, "ignore_eos": True}
    with server.http() as http:
        http.post("/v1/completions", json=body)
        assert http.delete("/v1/adapters/overflow").status_code == 200
    assert complete(max_tokens=40)["choices"] == good["choices"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "chat_template"),
        ("{{ raise_exception('only users may speak') }}", "only users may speak"),
        ("{% for %}", "template"),
    ],
    ids=["no template", "refused role", "broken template"],
)
def test_what_the_chat_template_refuses_is_a_bad_request(
    http: httpx.Client,
    server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    template: str | None,
    says: str,
) -> None:
    monkeypatch.setattr(server.services.codec._tokenizer, "chat_template", template)
    body = {"model": "tiny", "messages": [{"role": "wizard", "content": "x"}]}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"
    assert says in response.json()["error"]["message"]

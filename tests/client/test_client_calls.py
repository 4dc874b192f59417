"""Every method that is one request and one answer: what it sends and what it reads."""

import inspect
import json
from typing import Any

import httpx
import pytest
from intarsia_client import (
    AdapterWeight,
    AsyncClient,
    ChatCompletion,
    Client,
    Completion,
    Deleted,
    InvalidArgument,
    Model,
    Served,
)

COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "sql@3",
    "choices": [{"index": 0, "text": " Paris", "logprobs": None, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}
MESSAGE = {"role": "assistant", "content": "Paris.", "refusal": None}
CHAT = COMPLETION | {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "length"}],
}
DELETED = {
    "object": "adapter.deleted",
    "deleted": ["sql@3"],
    "state": "gone",
    "bytes_freed": {"disk": 44232, "device": 90000},
}
BASE = {"id": "demo", "object": "model", "root": "sha256:b", "parent": None, "max_model_len": 2048}

USER = [{"role": "user", "content": "hi"}]
WEIGHTS = [AdapterWeight("sql@3", 0.5), AdapterWeight("ns/x@prod")]
WEIGHTS_JSON = [{"id": "sql@3", "weight": 0.5}, {"id": "ns/x@prod", "weight": 1.0}]

GENERATIONS = [
    pytest.param("generate", "", {}, {"prompt": ""}, id="empty-prompt-is-sent"),
    pytest.param("generate", [], {}, {"prompt": []}, id="no-tokens-are-sent"),
    pytest.param("generate", [1, 2], {}, {"prompt": [1, 2]}, id="token-ids"),
    pytest.param("generate", "a", {"max_tokens": None}, {"prompt": "a"}, id="none-is-not-sent"),
    pytest.param(
        "generate",
        "a",
        {"adapter_from": 0, "temperature": 0.0, "seed": 0, "echo": False, "adapters": []},
        {"prompt": "a", "adapter_from": 0, "temperature": 0.0, "seed": 0, "echo": False}
        | {"adapters": []},
        id="zeros-are-sent",
    ),
    pytest.param(
        "generate",
        "a",
        {"adapters": WEIGHTS, "merge": {"method": "ties", "density": 0.2}, "newer": 1},
        {"prompt": "a", "adapters": WEIGHTS_JSON, "newer": 1}
        | {"merge": {"method": "ties", "density": 0.2}},
        id="composition-and-a-newer-field",
    ),
    pytest.param("chat", "hi", {}, {"messages": USER}, id="string-is-a-user-message"),
    pytest.param(
        "chat",
        USER,
        {"adapter_from": "last_turn", "stop": ["\n"], "logprobs": True},
        {"messages": USER, "adapter_from": "last_turn", "stop": ["\n"], "logprobs": True},
        id="messages",
    ),
]


@pytest.mark.parametrize(("method", "given", "options", "body"), GENERATIONS)
def test_generation_sends_what_was_given_and_nothing_else(
    drive: Any, method: str, given: Any, options: dict[str, Any], body: dict[str, Any]
) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=COMPLETION if method == "generate" else CHAT)

    drive(handler, method, given, model="sql@3", **options)
    path = "/v1/completions" if method == "generate" else "/v1/chat/completions"
    assert sent == [("POST", path, body | {"model": "sql@3"})]


def test_completion_holds_text_usage_and_what_served_it(drive: Any) -> None:
    headers = {
        "x-request-id": "req-1",
        "x-intarsia-composition": "sql@3",
        "x-intarsia-digest": "sha256:aa",
        "x-intarsia-mode": "batched",
        "x-intarsia-ignored-fields": "top_q,newer",
    }
    answer = drive(
        lambda _: httpx.Response(200, json=COMPLETION, headers=headers), "generate", "a", model="m"
    )
    assert isinstance(answer, Completion)
    assert (answer.text, answer.finish_reason, answer.model) == (" Paris", "stop", "sql@3")
    assert answer.usage is not None
    assert (answer.usage.total_tokens, answer.usage.cached_tokens) == (7, 4)
    assert answer.served == Served("req-1", "sql@3", "sha256:aa", "batched", ("top_q", "newer"))
    assert answer.raw["object"] == "text_completion"


def test_chat_message_can_be_sent_back_as_history(drive: Any) -> None:
    answer = drive(lambda _: httpx.Response(200, json=CHAT), "chat", "hi", model="m")
    assert isinstance(answer, ChatCompletion)
    assert (answer.text, answer.finish_reason, answer.message) == ("Paris.", "length", MESSAGE)
    assert answer.served == Served()


def test_message_without_content_has_empty_text(drive: Any) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": "x"}
    body = CHAT | {"choices": [choice], "usage": None}
    answer = drive(lambda _: httpx.Response(200, json=body), "chat", "hi", model="m")
    assert (answer.text, answer.usage) == ("", None)


PATHS = [
    pytest.param("sql", "/v1/adapters/sql", id="name"),
    pytest.param("sql@3", "/v1/adapters/sql%403", id="version"),
    pytest.param("acme/sql@prod", "/v1/adapters/acme/sql%40prod", id="namespace-keeps-its-slash"),
    pytest.param("sql@sha256:ab", "/v1/adapters/sql%40sha256%3Aab", id="digest"),
    pytest.param("a?b#c%d e", "/v1/adapters/a%3Fb%23c%25d%20e", id="nothing-leaves-the-path"),
]


@pytest.mark.parametrize(("reference", "path"), PATHS)
@pytest.mark.parametrize("method", ["adapter", "delete", "download"])
def test_reference_is_percent_encoded(
    drive: Any, adapter_json: Any, tmp_path: Any, method: str, reference: str, path: str
) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.raw_path.decode()))
        return httpx.Response(200, json=adapter_json | DELETED)

    drive(handler, method, reference, *([tmp_path / "x"] if method == "download" else []))
    verb = "DELETE" if method == "delete" else "GET"
    assert sent == [(verb, path + ("/file" if method == "download" else ""))]


@pytest.mark.parametrize("reference", ["", ".", "..", "a//b", "/a", "a/", "a/../b"])
def test_reference_that_would_name_another_path_is_refused(drive: Any, reference: str) -> None:
    with pytest.raises(InvalidArgument, match="does not name an adapter"):
        drive(lambda _: pytest.fail("it was sent"), "delete", reference)


def test_adapter_is_read_with_its_effect_and_newer_fields(drive: Any, adapter_json: Any) -> None:
    adapter = drive(lambda _: httpx.Response(200, json=adapter_json), "adapter", "sql")
    assert (adapter.id, adapter.version, adapter.kinds) == ("sql@3", 3, ("element",))
    assert adapter.metadata == {"task": "sql"}
    assert adapter.effect.layers[0].layer == "model.layers.0.self_attn.qkv_proj"
    assert (adapter.effect.nnz, adapter.effect.density, adapter.effect.norm) == (5529, 0.01, 1.25)
    assert adapter.raw["tier"] == "host"


def test_delete_says_what_came_free(drive: Any) -> None:
    gone = drive(lambda _: httpx.Response(200, json=DELETED), "delete", "sql@3")
    freed = {"disk": 44232, "device": 90000}
    assert gone == Deleted(deleted=("sql@3",), state="gone", bytes_freed=freed, raw={})


PAGINGS = [
    pytest.param([0], id="empty"),
    pytest.param([1], id="one-page"),
    pytest.param([2, 2, 1], id="three-pages"),
    pytest.param([2, 0], id="last-page-empty"),
]


@pytest.mark.parametrize("sizes", PAGINGS)
def test_adapters_follows_the_cursor_to_the_end(
    drive: Any, adapter_json: Any, sizes: list[int]
) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(dict(request.url.params))
        page = len(sent) - 1
        data = [adapter_json | {"id": f"a{page}.{item}"} for item in range(sizes[page])]
        cursor = f"after {page}" if page + 1 < len(sizes) else None
        return httpx.Response(200, json={"object": "list", "data": data, "next_cursor": cursor})

    found = drive(handler, "adapters", page_size=2)
    assert [a.id for a in found] == [f"a{p}.{i}" for p, n in enumerate(sizes) for i in range(n)]
    cursors = [{}, *({"after": f"after {page}"} for page in range(len(sizes) - 1))]
    assert sent == [{"limit": "2"} | cursor for cursor in cursors]


def test_models_and_version_are_read(drive: Any) -> None:
    answers = {"/v1/models": {"object": "list", "data": [BASE]}, "/version": {"version": "0.1.0"}}

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answers[request.url.path])

    base = Model(id="demo", root="sha256:b", parent=None, max_model_len=2048, raw={})
    assert drive(handler, "models") == (base,)
    assert drive(handler, "version").version == "0.1.0"


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (503, False)])
def test_ready_is_the_status_of_the_probe(drive: Any, status: int, is_ready: bool) -> None:
    assert drive(lambda _: httpx.Response(status), "ready") is is_ready


def test_server_that_is_not_there_is_not_ready(drive: Any) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    assert drive(handler, "ready") is False


KEYS = [
    pytest.param(None, None, None, id="none"),
    pytest.param(None, "", None, id="empty-variable"),
    pytest.param(None, "env", "Bearer env", id="from-the-environment"),
    pytest.param("own", "env", "Bearer own", id="argument-wins"),
    pytest.param("", "env", None, id="empty-argument-sends-none"),
]


@pytest.mark.parametrize(("argument", "variable", "header"), KEYS)
def test_api_key_goes_into_the_header(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, header: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("INTARSIA_API_KEY", variable)

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers.get("authorization") == header
        return httpx.Response(200)

    with Client(api_key=argument, transport=httpx.MockTransport(handler)) as client:
        assert client.ready()


@pytest.mark.parametrize("key", ["clé", "a\nb", "a\x00"])
def test_api_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidArgument, match="api_key") as caught:
        Client(api_key=key)
    assert key not in str(caught.value)


def test_base_url_may_have_a_path() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "https://host/proxy/health/ready"
        return httpx.Response(200)

    transport = httpx.MockTransport(handler)
    with Client("https://host/proxy/", transport=transport) as client:
        assert client.ready()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://[::"])
def test_base_url_that_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="base_url"):
        Client(url)


def test_both_clients_take_the_same_arguments() -> None:
    def parameters(kind: type, name: str) -> list[str]:
        return [
            str(p).split(":")[0] for p in inspect.signature(getattr(kind, name)).parameters.values()
        ]

    names = {name for name in vars(Client) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncClient) if not name.startswith("_")}
    for name in names:
        assert parameters(Client, name) == parameters(AsyncClient, name), name


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_value_that_json_cannot_hold_is_refused(drive: Any, value: Any) -> None:
    with pytest.raises(InvalidArgument):
        drive(lambda _: pytest.fail("it was sent"), "generate", "a", model="m", temperature=value)

"""What operators read: metrics, health, version, request ids, and what served an answer."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from api.conftest import kind_names
from prometheus_client.parser import text_string_to_metric_families
from servers import BASE_NAME, RunningServer, paused_engine

ELEMENT, BIAS = kind_names()["element"], kind_names()["bias"]
DIGEST = re.compile("sha256:[0-9a-f]{64}")
PATHS = ("/v1/completions", "/v1/chat/completions")


def _samples(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(response.text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _value(http: httpx.Client, name: str, **labels: str) -> float:
    return _samples(http).get((name, frozenset(labels.items())), 0.0)


@pytest.mark.parametrize(
    "name", ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]
)
def test_the_gateway_finds_its_metrics(http: httpx.Client, name: str) -> None:
    assert _samples(http)[name, frozenset({("model_name", BASE_NAME)})] == 0.0


def test_the_gateway_sees_which_adapters_run(server: RunningServer, http: httpx.Client) -> None:
    body = {"model": ELEMENT, "prompt": "x", "max_tokens": 4}
    with ThreadPoolExecutor(1) as pool, paused_engine(server):
        answer = pool.submit(http.post, "/v1/completions", json=body)
        server.wait_for(running=1)
        with server.http() as other:
            labels = [
                dict(pairs) for name, pairs in _samples(other) if name == "vllm:lora_requests_info"
            ]
            held = _value(other, "intarsia_adapter_pins")
    assert answer.result().status_code == 200
    assert [label["running_lora_adapters"] for label in labels] == [f"{ELEMENT}@1"]
    assert [label["waiting_lora_adapters"] for label in labels] == [""]
    assert held == 1


def test_tokens_and_endings_are_counted(http: httpx.Client, complete: Callable[..., Any]) -> None:
    names = ("intarsia_generation_tokens_total", "intarsia_prompt_tokens_total")
    before = [_value(http, name) for name in names]
    ended = _value(http, "intarsia_requests_finished_total", reason="length")
    usage = complete(prompt="small pieces", max_tokens=5, ignore_eos=True)["usage"]
    after = [_value(http, name) for name in names]
    assert after == [before[0] + 5, before[1] + usage["prompt_tokens"]]
    assert _value(http, "intarsia_requests_finished_total", reason="length") == ended + 1


def test_latencies_are_observed(http: httpx.Client, complete: Callable[..., Any]) -> None:
    names = [
        f"intarsia_{what}_seconds_count"
        for what in ("time_to_first_token", "inter_token_latency", "e2e_request_latency")
    ]
    before = [_value(http, name) for name in names]
    complete(max_tokens=5, ignore_eos=True)
    after = [_value(http, name) for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 4, 1]


def test_a_prefix_that_was_computed_is_not_computed_again(complete: Callable[..., Any]) -> None:
    prompt = [9, 8, 7, 6] * 12
    first, second = (complete(prompt=prompt, cache_salt="own")["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == 32  # whole pages, not the last token
    other = complete(prompt=prompt, cache_salt="another")["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] == 0


def test_route_labels_stay_few(http: httpx.Client) -> None:
    for number in range(5):
        http.get(f"/nothing/{number}")
        http.get(f"/v1/models/nobody-{number}")
        http.get(f"/v1/adapters/nobody-{number}/file")
        http.request(f"ODD{number}", "/v1/models")
    routes = {
        dict(labels)["route"]
        for name, labels in _samples(http)
        if name == "intarsia_http_responses_total"
    }
    assert {"other", "/v1/models/{reference:path}"} <= routes
    assert not [route for route in routes if "nobody" in route or "nothing" in route]
    assert _value(http, "intarsia_http_responses_total", route="other", status="404") >= 5


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("é", False),
        ("", False),
    ],
)
def test_a_plain_request_id_is_kept_and_any_other_made(
    http: httpx.Client, given: str, is_kept: bool
) -> None:
    for path in ("/v1/models", "/nothing"):
        response = http.get(path, headers={b"x-request-id": given.encode()})
        assert (response.headers["x-request-id"] == given) is is_kept
        assert response.headers["x-request-id"]
    made = {http.get("/version").headers["x-request-id"] for _ in range(5)}
    assert len(made) == 5


def test_equal_request_ids_at_the_same_time_do_not_collide(server: RunningServer) -> None:
    def ask(prompt: str) -> tuple[int, str]:
        body = {"model": BASE_NAME, "prompt": prompt, "max_tokens": 8, "temperature": 0, "n": 2}
        with server.http(headers={"x-request-id": "same"}) as http:
            response = http.post("/v1/completions", json=body)
        assert response.headers["x-request-id"] == "same"
        return response.status_code, response.json()["choices"][0]["text"]

    prompts = [f"prompt {number}" for number in range(8)]
    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, prompts)) == alone
    assert {status for status, _ in alone} == {200}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_every_generation_says_what_served_it(http: httpx.Client, path: str, stream: bool) -> None:
    def headers(**fields: Any) -> httpx.Headers:
        asked = (
            {"prompt": "x"}
            if "chat" not in path
            else {"messages": [{"role": "user", "content": "x"}]}
        )
        body = {**asked, "max_tokens": 1, "stream": stream, **fields}
        response = http.post(path, json=body)
        assert response.status_code == 200
        assert response.headers["x-intarsia-mode"] == "batched"
        return response.headers

    base = headers()
    assert (base["x-intarsia-composition"], base["x-intarsia-digest"]) == ("base", "base")
    one = headers(model=ELEMENT)
    assert one["x-intarsia-composition"] == f"{ELEMENT}@1"
    assert DIGEST.fullmatch(one["x-intarsia-digest"])
    adapters = [{"id": ELEMENT, "weight": 0.5}, {"id": f"{BIAS}@1"}]
    both = headers(adapters=adapters, merge={"method": "linear"})
    assert both["x-intarsia-composition"] == f"{ELEMENT}@1*0.5+{BIAS}@1"
    assert both["x-intarsia-digest"].split(",")[0] == one["x-intarsia-digest"]


def test_health_and_version_say_what_they_should(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}
    assert http.get("/version").json()["base"] == BASE_NAME


@pytest.mark.parametrize("form", ["{name}@1", "{name}%401", "{quoted}%401", "{name}@{digest}"])
def test_a_reference_may_be_percent_encoded(http: httpx.Client, form: str) -> None:
    digest = http.get(f"/v1/adapters/{ELEMENT}").json()["digest"]
    reference = form.format(name=ELEMENT, quoted=ELEMENT.replace("/", "%2F"), digest=digest)
    for path in (f"/v1/adapters/{reference}", f"/v1/models/{reference}"):
        assert http.get(path).status_code == 200, path
    assert http.get(f"/v1/adapters/{ELEMENT}@1").json()["id"] == f"{ELEMENT}@1"
    download = http.get(f"/v1/adapters/{reference}/file")
    assert download.headers["etag"] == f'"{digest}"'
    assert download.headers["content-length"] == str(len(download.content))


def test_a_long_prompt_does_not_hold_up_the_others(
    server: RunningServer, http: httpx.Client
) -> None:
    """Reading the prompt happens beside the event loop, which still answers meanwhile."""
    codec, is_read = server.services.codec, []
    encode = codec.encode

    def slow_encode(text: str, *, add_special_tokens: bool) -> list[int]:
        with server.http() as other:  # answered only by an event loop that is free
            is_read.append(other.get("/health/live").status_code)
        return encode(text, add_special_tokens=add_special_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "encode", slow_encode)
        for path, asked in zip(PATHS, ("prompt", "messages"), strict=True):
            body = {asked: "x" if asked == "prompt" else [{"role": "user", "content": "x"}]}
            assert http.post(path, json={**body, "max_tokens": 1}).status_code == 200
    assert is_read == [200, 200]

"""The tokenizer's routes: what a completion would read, in vLLM's shape."""

import json
from typing import Any

import httpx
import pytest
from api.bad_requests import ADAPTER, BODIES, USER
from api.conftest import BODY_LIMIT, KEY
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import BASE_NAME, RunningServer
from tiny_models import CHAT_TEMPLATE, END_OF_TEXT, VOCAB_SIZE

ROUTES = ["/tokenize", "/detokenize"]
JSON = "application/json"


def tokenize(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/tokenize", json=fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def detokenize(http: httpx.Client, tokens: list[int]) -> str:
    response = http.post("/detokenize", json={"tokens": tokens})
    assert response.status_code == 200, response.text
    return str(response.json()["prompt"])


def test_the_answer_has_vllms_fields(http: httpx.Client) -> None:
    answer = tokenize(http, prompt="a solid piece", return_token_strs=True)
    assert answer.keys() == {"count", "max_model_len", "tokens", "token_strs"}
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 128)
    assert "".join(answer["token_strs"]).replace("Ġ", " ") == "a solid piece"
    assert tokenize(http, prompt="a")["token_strs"] is None


def test_an_empty_text_has_no_tokens(http: httpx.Client) -> None:
    answer = tokenize(http, prompt="")
    assert (answer["count"], answer["tokens"]) == (0, [])
    assert detokenize(http, []) == ""


def test_a_text_longer_than_the_context_is_counted(http: httpx.Client) -> None:
    answer = tokenize(http, prompt="q" * 1000)
    assert answer["count"] > answer["max_model_len"]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_text_comes_back_from_its_tokens(server: RunningServer, text: str) -> None:
    with server.http() as http:
        tokens = tokenize(http, prompt=text, add_special_tokens=False)["tokens"]
        assert detokenize(http, tokens) == text


@settings(max_examples=20, deadline=None)
@given(text=st.text("abst <|>\n", min_size=1, max_size=60))
def test_tokens_are_those_that_a_completion_reads(server: RunningServer, text: str) -> None:
    with server.http() as http:
        body = {"prompt": text, "max_tokens": 0, "echo": True, "prompt_logprobs": 0}
        response = http.post("/v1/completions", json=body)
        shown = response.json()["choices"][0]["prompt_logprobs"][1:]
        scored = [int(token_id) for entry in shown for token_id in entry]
        assert tokenize(http, prompt=text)["tokens"][1:] == scored


def test_special_tokens_are_read_and_written(http: httpx.Client) -> None:
    [token] = tokenize(http, prompt=END_OF_TEXT)["tokens"]
    assert detokenize(http, [token]) == END_OF_TEXT


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_conversation_is_tokenized_as_the_chat_route_reads_it(
    http: httpx.Client, add_generation_prompt: bool
) -> None:
    fields = {"messages": [USER], "add_generation_prompt": add_generation_prompt}
    chat = http.post("/v1/chat/completions", json={**fields, "max_tokens": 1}).json()
    answer = tokenize(http, **fields)
    assert answer["count"] == chat["usage"]["prompt_tokens"]
    ending = "<|assistant|>\n" if add_generation_prompt else ""
    assert detokenize(http, answer["tokens"]) == f"<|user|>\nx<|end|>\n{ending}"


@pytest.mark.parametrize("model", [BASE_NAME, ADAPTER, f"{BASE_NAME}:{ADAPTER}", None])
def test_every_model_has_the_tokenizer_of_the_base(http: httpx.Client, model: str | None) -> None:
    assert tokenize(http, model=model, prompt="solid") == tokenize(http, prompt="solid")


def test_tokenizer_info_is_what_lm_eval_and_others_probe(server: RunningServer) -> None:
    with server.http() as http:
        info = http.get("/tokenizer_info").json()
    assert (info["eos_token"], info["pad_token"]) == (END_OF_TEXT, END_OF_TEXT)
    assert info["chat_template"] == CHAT_TEMPLATE
    assert info["tokenizer_class"]
    assert info["added_tokens_decoder"]["0"] == END_OF_TEXT


def test_tokenizer_info_tells_nothing_of_the_machine(server: RunningServer) -> None:
    with server.http() as http:
        text = http.get("/tokenizer_info").text
    assert str(server.settings.base_model) not in text
    assert str(server.settings.data_dir) not in text


@pytest.mark.parametrize(
    ("method", "path"), [("POST", r) for r in ROUTES] + [("GET", "/tokenizer_info")]
)
def test_the_key_is_wanted(keyed_server: RunningServer, method: str, path: str) -> None:
    with keyed_server.http() as http:
        body = {"prompt": "x", "tokens": [1]} if method == "POST" else None
        assert http.request(method, path, json=body).status_code == 401
        headers = {"authorization": f"Bearer {KEY}"}
        assert http.request(method, path, json=body, headers=headers).status_code == 200


BAD = {
    "neither": ("/tokenize", {}, 400, "prompt"),
    "both": ("/tokenize", {"prompt": "x", "messages": [USER]}, 400, "prompt"),
    "prompt number": ("/tokenize", {"prompt": 5}, 400, "prompt"),
    "prompt list": ("/tokenize", {"prompt": ["x"]}, 400, "prompt"),
    "no messages": ("/tokenize", {"messages": []}, 400, "messages"),
    "message without role": ("/tokenize", {"messages": [{"content": "x"}]}, 400, "messages.0.role"),
    "add_special_tokens text": (
        "/tokenize",
        {"prompt": "x", "add_special_tokens": "yes"},
        400,
        "add_special_tokens",
    ),
    "return_token_strs number": (
        "/tokenize",
        {"prompt": "x", "return_token_strs": 1},
        400,
        "return_token_strs",
    ),
    "chat_template": (
        "/tokenize",
        {"messages": [USER], "chat_template": "x"},
        400,
        "chat_template",
    ),
    "tools": ("/tokenize", {"messages": [USER], "tools": [{}]}, 400, "tools"),
    "continue_final_message": (
        "/tokenize",
        {"messages": [USER], "continue_final_message": True},
        400,
        "continue_final_message",
    ),
    "unknown model": ("/tokenize", {"prompt": "x", "model": "nobody"}, 404, "model"),
    "lone surrogate": ("/tokenize", {"prompt": "\ud800"}, 400, "prompt"),
    "no tokens": ("/detokenize", {}, 400, "tokens"),
    "tokens text": ("/detokenize", {"tokens": "x"}, 400, "tokens"),
    "a token of text": ("/detokenize", {"tokens": [1, "x"]}, 400, "tokens.1"),
    "a boolean": ("/detokenize", {"tokens": [True]}, 400, "tokens.0"),
    "negative token": ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
    "token of the vocabulary's size": ("/detokenize", {"tokens": [VOCAB_SIZE]}, 400, "tokens"),
    "huge token": ("/detokenize", {"tokens": [2**70]}, 400, "tokens"),
    "unknown model of tokens": ("/detokenize", {"tokens": [1], "model": "nobody"}, 404, "model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_field(http: httpx.Client, case: str) -> None:
    path, body, status, param = BAD[case]
    response = http.post(path, content=json.dumps(body), headers={"content-type": JSON})
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_is_refused_as_on_every_route(http: httpx.Client, path: str, case: str) -> None:
    bad = BODIES[case]
    headers = {"content-type": bad.content_type} if bad.content_type else {}
    response = http.post(path, content=bad.content, headers=headers)
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["error"]["message"]


def test_a_body_over_the_limit_is_refused(http: httpx.Client) -> None:
    response = http.post("/tokenize", json={"prompt": "q" * BODY_LIMIT})
    assert response.status_code == 413

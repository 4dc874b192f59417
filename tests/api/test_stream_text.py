"""Streams and log-probabilities: the same text in pieces, whole characters, aligned tokens."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from servers import BASE_NAME, RunningServer
from transformers.convert_slow_tokenizer import bytes_to_unicode

Ask = Callable[..., Any]
PATHS = {"completions": "text", "chat/completions": "content"}
PROMPT = "setting small pieces"
SAMPLED = {"max_tokens": 30, "ignore_eos": True}


def _body(path: str, **fields: Any) -> dict[str, Any]:
    asked = (
        {"messages": [{"role": "user", "content": PROMPT}]}
        if "chat" in path
        else {"prompt": PROMPT}
    )
    return {"model": BASE_NAME, "temperature": 0, **SAMPLED, **asked, **fields}


def _events(http: httpx.Client, path: str, **fields: Any) -> list[str]:
    """The data of every event, read as bytes so that a broken character would not decode."""
    with http.stream("POST", f"/v1/{path}", json=_body(path, stream=True, **fields)) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        content = b"".join(response.iter_raw()).decode()
    assert content.endswith("\n\n")
    events = content.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    return [event.removeprefix("data: ") for event in events]


def _chunks(http: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    *chunks, done = _events(http, path, **fields)
    assert done == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def _text(chunk: dict[str, Any]) -> str:
    [choice] = chunk["choices"]
    return str(choice["text"] if "text" in choice else choice["delta"].get("content", ""))


def _whole(http: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/{path}", json=_body(path, **fields)).json()
    choice: dict[str, Any] = answer["choices"][0]
    return {**choice, "text": choice["text"] if "text" in choice else choice["message"]["content"]}


@pytest.mark.parametrize("path", PATHS)
def test_the_pieces_of_a_stream_are_its_text(http: httpx.Client, path: str) -> None:
    chunks = _chunks(http, path)
    whole = _whole(http, path)
    assert "".join(map(_text, chunks)) == whole["text"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole["finish_reason"]]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


def _forcing(server: RunningServer, data: bytes) -> dict[str, Any]:
    """Fields that make a greedy model say the distinct bytes of `data`, one token each, in order.

    Each has a smaller bias than the one before, and the penalty takes the bias of what was said.
    """
    by_byte = bytes_to_unicode()
    vocabulary = server.services.codec._tokenizer.get_vocab()
    ids = [vocabulary[by_byte[byte]] for byte in data]
    assert len(set(ids)) == len(ids) <= 9
    bias = {str(token_id): 100.0 - 10 * place for place, token_id in enumerate(ids)}
    return {"logit_bias": bias, "repetition_penalty": 100.0, "max_tokens": len(ids)}


@pytest.mark.parametrize("path", PATHS)
def test_a_character_of_several_tokens_comes_whole(
    http: httpx.Client, server: RunningServer, path: str
) -> None:
    fields = _forcing(server, "😀é€".encode())
    pieces = [_text(chunk) for chunk in _chunks(http, path, **fields)]
    assert [piece for piece in pieces if piece] == ["😀", "é", "€"]
    assert _whole(http, path, **fields)["text"] == "😀é€"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xf0\x9f\x98", "\ufffd"),
        (b"\xc3", "\ufffd"),
        (b"\x80a", "\ufffda"),
        (b"\xe2\x82a\xc3\xa9", "\ufffdaé"),
    ],
    ids=["cut emoji", "cut letter", "stray byte", "broken and whole"],
)
def test_broken_bytes_become_a_replacement_character(
    http: httpx.Client, server: RunningServer, data: bytes, text: str
) -> None:
    fields = _forcing(server, data)
    assert "".join(map(_text, _chunks(http, "completions", **fields))) == text
    assert _whole(http, "completions", **fields)["text"] == text


@pytest.mark.parametrize("path", PATHS)
def test_random_bytes_are_the_same_in_pieces_and_whole(http: httpx.Client, path: str) -> None:
    for seed in range(8):
        fields = {"temperature": 2, "seed": seed}
        pieces = [_text(chunk) for chunk in _chunks(http, path, **fields)]
        assert "".join(pieces) == _whole(http, path, **fields)["text"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("included", [False, True])
def test_no_part_of_a_stop_string_leaks(
    http: httpx.Client, ascii_only: dict[str, float], path: str, included: bool
) -> None:
    fields: dict[str, Any] = {"temperature": 1, "seed": 5, "logit_bias": ascii_only}
    text = _whole(http, path, **fields)["text"]
    stop = text[7:11]
    expected = text[: text.index(stop) + len(stop) * included]
    fields |= {"stop": [stop, "not there"], "include_stop_str_in_output": included}
    chunks = _chunks(http, path, **fields)
    assert "".join(map(_text, chunks)) == expected == _whole(http, path, **fields)["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"][0]["stop_reason"] == stop


def test_text_held_back_for_a_stop_string_comes_in_the_end(
    http: httpx.Client, ascii_only: dict[str, float]
) -> None:
    fields: dict[str, Any] = {"logit_bias": ascii_only, "max_tokens": 6}
    text = _whole(http, "completions", **fields)["text"]
    held = {**fields, "stop": text[-3:] + "and more that never comes"}
    assert "".join(map(_text, _chunks(http, "completions", **held))) == text


@pytest.mark.parametrize("path", PATHS)
def test_usage_chunks_have_their_shape(http: httpx.Client, path: str) -> None:
    assert all("usage" not in chunk for chunk in _chunks(http, path))
    *chunks, last = _chunks(http, path, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["completion_tokens"] == SAMPLED["max_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    running = _chunks(
        http, path, stream_options={"include_usage": True, "continuous_usage_stats": True}
    )
    counts = [chunk["usage"]["completion_tokens"] for chunk in running]
    assert counts == sorted(counts)
    assert counts[-1] == SAMPLED["max_tokens"]


@pytest.mark.parametrize("field", ["max_tokens", "stop_token_ids", "eos"])
def test_a_stream_says_why_it_ended(
    http: httpx.Client, server: RunningServer, complete: Ask, field: str
) -> None:
    token = server.services.codec.encode("q", add_special_tokens=False)[0]
    eos = server.services.codec.encode("<|endoftext|>", add_special_tokens=False)[0]
    always_token, always_eos = ({"logit_bias": {str(i): 100}} for i in (token, eos))
    endings: dict[str, tuple[dict[str, Any], str, int | None]] = {
        "max_tokens": ({"max_tokens": 2}, "length", None),
        "stop_token_ids": ({"stop_token_ids": [token], **always_token}, "stop", token),
        "eos": ({"ignore_eos": False, **always_eos}, "stop", None),
    }
    fields, reason, stop_reason = endings[field]
    last = _chunks(http, "completions", **fields)[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == (reason, stop_reason)


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_line_up_with_the_text(
    http: httpx.Client, ascii_only: dict[str, float], echo: bool
) -> None:
    fields = {"logprobs": 3, "echo": echo, "logit_bias": ascii_only}
    choice = _whole(http, "completions", **fields)
    logprobs = choice["logprobs"]
    tokens, offsets = logprobs["tokens"], logprobs["text_offset"]
    assert "".join(tokens) == choice["text"]
    assert choice["text"].startswith(PROMPT) is echo
    for token, offset in zip(tokens, offsets, strict=True):
        assert choice["text"][offset : offset + len(token)] == token
    streamed: dict[str, list[Any]] = {name: [] for name in logprobs}
    for chunk in _chunks(http, "completions", **fields):
        for name, values in chunk["choices"][0]["logprobs"].items():
            streamed[name] += values
    assert streamed == logprobs


def test_an_echo_of_the_prompt_alone_generates_nothing(http: httpx.Client) -> None:
    choice = _whole(http, "completions", echo=True, max_tokens=0, logprobs=1)
    assert choice["text"] == PROMPT
    assert "".join(choice["logprobs"]["tokens"]) == PROMPT
    assert choice["finish_reason"] == "length"
    [chunk] = _chunks(http, "completions", echo=True, max_tokens=0)
    assert _text(chunk) == PROMPT


def test_lm_eval_can_score_continuations(complete: Ask) -> None:
    """Its request, and what it reads: DESIGN's interop promise."""
    prompts = [list(range(40, 60)), list(range(100, 103)), [7] * 50]
    answer = complete(prompt=prompts, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234)
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        own, top = logprobs["token_logprobs"], logprobs["top_logprobs"]
        assert len(own) == len(top) == len(prompt) + 1
        assert own[0] is None
        assert top[0] is None
        for value, alternatives in zip(own[1:], top[1:], strict=True):
            assert isinstance(alternatives, dict)
            assert alternatives
            assert max(alternatives.values()) >= value
        assert max(top[-1].values()) == own[-1]  # the generated token is the greedy one


def test_prompt_logprobs_agree_with_an_echo(complete: Ask) -> None:
    echoed = complete(prompt=PROMPT, max_tokens=1, echo=True, logprobs=2)["choices"][0]["logprobs"]
    choice = complete(prompt=PROMPT, max_tokens=1, prompt_logprobs=2)["choices"][0]
    first, *ranked = choice["prompt_logprobs"]
    assert first is None
    best = [max(entries.values(), key=lambda entry: entry["logprob"]) for entries in ranked]
    assert {entry["rank"] for entry in best} == {1}
    assert [entry["logprob"] for entry in best] == [
        max(top.values()) for top in echoed["top_logprobs"][1:-1]
    ]


def test_an_adapter_may_begin_at_the_last_turn(http: httpx.Client) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    fields = {"model": "kinds/element", "messages": messages}
    texts = {
        start: _whole(http, "chat/completions", **fields, adapter_from=start)["text"]
        for start in (0, "last_turn", 127)
    }
    assert len(set(texts.values())) == 3
    assert texts[127] == _whole(http, "chat/completions", messages=messages)["text"]

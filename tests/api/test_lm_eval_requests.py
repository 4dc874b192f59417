"""Requests recorded from lm-evaluation-harness 0.4.13, and what it reads of their answers.

`lm_eval_requests.jsonl` holds what its `local-completions` sent for four tasks, with the remote
tokenizer and with its own, ids and text, one at a time and in lists. Its parsing is repeated here.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from api.conftest import kind_names
from engines import weights_with
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import RunningServer
from tiny_adapters import make_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM

RECORDED = Path(__file__).with_name("lm_eval_requests.jsonl")
REQUESTS = [json.loads(line) for line in RECORDED.read_text().splitlines()]
COMPLETIONS = [r["body"] for r in REQUESTS if r["path"] == "/v1/completions"]
SCORED = [body for body in COMPLETIONS if body.get("echo")]
GENERATED = [body for body in COMPLETIONS if not body.get("echo")]
TOLERANCE = 2e-4
KIND = "element"
ADAPTER = kind_names()[KIND]

Json = dict[str, Any]


def send(http: httpx.Client, method: str, path: str, body: Any) -> Json:
    response = http.request(method, path, json=body)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def complete(http: httpx.Client, body: Json) -> list[Json]:
    choices = send(http, "POST", "/v1/completions", body)["choices"]
    return sorted(choices, key=lambda choice: int(choice["index"]))


def prompts_of(http: httpx.Client, body: Json) -> list[list[int]]:
    """The prompts of a request as token ids."""
    if not isinstance(body["prompt"], str):
        prompts: list[list[int]] = body["prompt"]
        return prompts
    return [send(http, "POST", "/tokenize", {"prompt": body["prompt"]})["tokens"]]


def parsed(choice: Json, context: int) -> tuple[float, bool]:
    """As the harness reads a choice: log-likelihood after `context` tokens, and if it is greedy."""
    own = choice["logprobs"]["token_logprobs"][context:-1]
    top = choice["logprobs"]["top_logprobs"][context:-1]
    return sum(own), all(value == max(best.values()) for value, best in zip(own, top, strict=True))


@pytest.fixture(scope="module")
def model_logprobs(server: RunningServer) -> Any:
    """`(model, token ids) -> [tokens, vocabulary]` by transformers, the adapter folded in."""

    @cache
    def model(name: str) -> Any:
        loaded = AutoModelForCausalLM.from_pretrained(
            server.settings.base_model, dtype=torch.float32
        )
        seed = list(kind_names()).index(KIND)
        changes = weights_with(make_adapter(server.base, KIND, seed)) if name == ADAPTER else {}
        with torch.no_grad():
            for layer, change in changes.items():
                loaded.get_submodule(layer).weight += change
        return loaded

    def logprobs(name: str, tokens: list[int]) -> Tensor:
        with torch.inference_mode():
            return torch.log_softmax(model(name)(torch.tensor([tokens])).logits[0], -1)

    return logprobs


def test_the_remote_tokenizer_finds_what_it_probes(http: httpx.Client) -> None:
    for request in REQUESTS:
        if request["path"] == "/v1/completions":
            continue
        answer = send(http, request["method"], request["path"], request["body"])
        read: Mapping[str, tuple[str, type]] = {
            "/tokenizer_info": ("eos_token", str),
            "/tokenize": ("tokens", list),
            "/detokenize": ("prompt", str),
        }
        field, expected = read[request["path"]]
        assert isinstance(answer[field], expected)


@pytest.mark.parametrize("model", ["tiny", ADAPTER])
@pytest.mark.parametrize("body", SCORED, ids=lambda body: str(body["prompt"]))
def test_scores_are_those_of_transformers(
    http: httpx.Client, model_logprobs: Any, body: Json, model: str
) -> None:
    prompts = prompts_of(http, body)
    choices = complete(http, {**body, "model": model})
    assert len(choices) == len(prompts)
    for prompt, choice in zip(prompts, choices, strict=True):
        rows = model_logprobs(model, prompt)
        following = torch.tensor(prompt[1:])
        expected = rows[:-1].gather(1, following[:, None])[:, 0]
        for context in range(1, len(prompt) + 1):
            value, is_greedy = parsed(choice, context)
            assert value == pytest.approx(float(expected[context - 1 :].sum()), abs=TOLERANCE)
            best = rows[context - 1 : -1].argmax(-1)
            assert is_greedy == bool((best == following[context - 1 :]).all())


@pytest.mark.parametrize("body", SCORED, ids=lambda body: str(body["prompt"]))
def test_a_scored_prompt_has_the_legacy_shape(http: httpx.Client, body: Json) -> None:
    for prompt, choice in zip(prompts_of(http, body), complete(http, body), strict=True):
        shown = choice["logprobs"]
        assert shown.keys() == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
        assert {len(values) for values in shown.values()} == {len(prompt) + 1}
        assert shown["token_logprobs"][0] is shown["top_logprobs"][0] is None
        for own, token, top in zip(
            shown["token_logprobs"][1:],
            shown["tokens"][1:],
            shown["top_logprobs"][1:],
            strict=True,
        ):
            assert top[token] == own  # the token, and the likeliest beside it
            assert 1 <= len(top) <= 2
        for token, offset in zip(shown["tokens"], shown["text_offset"], strict=True):
            assert choice["text"].startswith(token, offset)


@pytest.mark.parametrize("body", GENERATED, ids=lambda body: str(body["prompt"]))
def test_generations_come_by_index_and_end_before_a_stop(http: httpx.Client, body: Json) -> None:
    choices = complete(http, body)
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    for choice in choices:
        assert not any(stop in choice["text"] for stop in body["stop"])


def test_a_list_of_prompts_scores_each_as_alone(http: httpx.Client) -> None:
    body = max(SCORED, key=lambda body: len(body["prompt"]) * isinstance(body["prompt"], list))
    together = complete(http, body)
    assert len(together) > 1
    for prompt, choice in zip(body["prompt"], together, strict=True):
        [alone] = complete(http, {**body, "prompt": [prompt]})
        assert parsed(choice, 1)[0] == pytest.approx(parsed(alone, 1)[0], abs=TOLERANCE)


TEXTS = st.text(st.sampled_from("as ttiong é 漢 🎉\n"), min_size=1, max_size=24)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), as_ids=st.booleans())
def test_every_character_of_an_echo_is_where_its_token_begins(
    server: RunningServer, texts: list[str], as_ids: bool
) -> None:
    """Also where a character has several tokens: they all begin where it does."""
    with server.http() as http:
        ids = [send(http, "POST", "/tokenize", {"prompt": t})["tokens"] for t in texts]
        body = {"prompt": ids if as_ids else texts, "echo": True, "max_tokens": 0, "logprobs": 0}
        for text, choice in zip(texts, complete(http, body), strict=True):
            assert choice["text"] == text
            offsets, tokens = choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]
            assert offsets == sorted(offsets)
            for token, offset in zip(tokens, offsets, strict=True):
                whole = token.strip("\ufffd")
                assert whole == "" or text.startswith(token.rstrip("\ufffd"), offset)
            spans = zip(offsets, [*offsets[1:], len(text)], strict=True)
            assert "".join(text[begin:end] for begin, end in spans) == text

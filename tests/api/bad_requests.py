"""Generation requests that cannot be served: the table that `test_bad_requests` fires."""

import json
from typing import Any, NamedTuple

from api.conftest import BODY_LIMIT, kind_names
from servers import BASE_NAME
from tiny_models import VOCAB_SIZE

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ADAPTER = kind_names()["element"]
USER = {"role": "user", "content": "x"}
CONTEXT = 128  # tokens
LINEAR = {"method": "linear"}
NAN, INF = float("nan"), float("inf")
JSON = "application/json"


class Bad(NamedTuple):
    """What is sent, the status and `param` of its answer, and what the message must hold."""

    path: str
    content: bytes
    status: int
    param: str | None
    says: str
    content_type: str = JSON


def _completion(param: str | None, says: str, status: int = 400, **fields: Any) -> Bad:
    body = {"model": BASE_NAME, "prompt": "x", "max_tokens": 4, **fields}
    return Bad(COMPLETIONS, json.dumps(body).encode(), status, param, says)


def _chat(param: str | None, says: str, **fields: Any) -> Bad:
    body = {"model": BASE_NAME, "messages": [USER], **fields}
    return Bad(CHAT, json.dumps(body).encode(), 400, param, says)


def _raw(param: str | None, says: str, fields: str) -> Bad:
    """A completion whose further fields are given as text, for what `json` would not write."""
    content = f'{{"model": "tiny", "prompt": "x", {fields}}}'
    return Bad(COMPLETIONS, content.encode(), 400, param, says)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BODIES = {
    "empty body": Bad(COMPLETIONS, b"", 400, None, "body"),
    "malformed JSON": Bad(COMPLETIONS, b'{"model": ', 400, None, "not valid JSON"),
    "a list": Bad(COMPLETIONS, b"[]", 400, None, "body"),
    "null": Bad(CHAT, b"null", 400, None, "body"),
    "not UTF-8": Bad(COMPLETIONS, b'{"model": "\xff"}', 400, None, "utf-8"),
    "nested too deeply for JSON": Bad(COMPLETIONS, b"[" * 100_000, 400, None, "nested too deeply"),
    "deep prompt": _raw("prompt", "prompt", f'"prompt": {_nested(800)}'),
    "deep response_format": _raw(
        "response_format", "not served", f'"response_format": {_nested(800)}'
    ),
    "an integer of 5000 digits": _raw(None, "5000 digits", f'"seed": {"9" * 5000}'),
    "text/plain": Bad(COMPLETIONS, b"{}", 415, None, "'text/plain'", "text/plain"),
    "form": Bad(
        CHAT, b"model=tiny", 415, None, "application/json", "application/x-www-form-urlencoded"
    ),
    "json-like type": Bad(
        COMPLETIONS, b"{}", 415, None, "'application/x+json'", "application/x+json"
    ),
    "no content type": Bad(CHAT, b"{}", 415, None, "application/json", ""),
    "over the limit": Bad(COMPLETIONS, b" " * (BODY_LIMIT + 1), 413, None, str(BODY_LIMIT)),
}

PROMPTS = {
    "no prompt": Bad(COMPLETIONS, b'{"model": "tiny"}', 400, "prompt", "prompt"),
    "prompt null": _completion("prompt", "None", prompt=None),
    "prompt number": _completion("prompt", "not 5", prompt=5),
    "prompt mixed list": _completion("prompt", "[1, 'a']", prompt=[1, "a"]),
    "prompt of booleans": _completion("prompt", "[True]", prompt=[True]),
    "empty string": _completion("prompt", "empty", prompt=""),
    "empty list": _completion("prompt", "empty", prompt=[]),
    "list of an empty string": _completion("prompt", "empty", prompt=["x", ""]),
    "list of an empty list": _completion("prompt", "empty", prompt=[[1], []]),
    "context tokens": _completion("prompt", f"{CONTEXT} tokens", prompt=[5] * CONTEXT),
    "long text": _completion("prompt", f"context is {CONTEXT}", prompt="q" * 5000),
    "token id of the vocabulary's size": _completion(
        "prompt", str(VOCAB_SIZE), prompt=[VOCAB_SIZE]
    ),
    "negative token id": _completion("prompt", "-1", prompt=[[1], [-1]]),
    "huge token id": _completion("prompt", str(2**70), prompt=[2**70]),
    "too many prompts": _completion("prompt", "100 prompts", prompt=["x"] * 100, n=20),
}

SAMPLING = {
    "max_tokens absurd": _completion("max_tokens", str(10**9), max_tokens=10**9),
    "max_tokens beyond 64 bits": _completion("max_tokens", str(2**70), max_tokens=2**70),
    "max_tokens one over": _completion("max_tokens", "127", max_tokens=CONTEXT, prompt=[5]),
    "max_tokens 0": _completion("max_tokens", "not 0", max_tokens=0),
    "max_tokens negative": _completion("max_tokens", "-1", max_tokens=-1),
    "max_tokens text": _completion("max_tokens", "'4'", max_tokens="4"),
    "max_tokens fraction": _completion("max_tokens", "1.5", max_tokens=1.5),
    "max_tokens boolean": _completion("max_tokens", "True", max_tokens=True),
    "n 0": _completion("n", "not 0", n=0),
    "n 65": _completion("n", "not 65", n=65),
    "temperature NaN": _completion("temperature", "nan", temperature=NAN),
    "temperature infinite": _completion("temperature", "inf", temperature=INF),
    "temperature negative": _completion("temperature", "-0.1", temperature=-0.1),
    "temperature text": _completion("temperature", "'hot'", temperature="hot"),
    "temperature 1e400": _raw("temperature", "inf", '"temperature": 1e400'),
    "temperature of 400 digits": _completion("temperature", "temperature", temperature=10**400),
    "top_p 0": _completion("top_p", "above 0", top_p=0),
    "top_p over 1": _completion("top_p", "1.1", top_p=1.1),
    "top_p NaN": _completion("top_p", "nan", top_p=NAN),
    "min_p NaN": _completion("min_p", "nan", min_p=NAN),
    "top_k -2": _completion("top_k", "-2", top_k=-2),
    "top_k huge": _completion("top_k", str(2**70), top_k=2**70),
    "presence_penalty": _completion("presence_penalty", "2.1", presence_penalty=2.1),
    "frequency_penalty": _completion("frequency_penalty", "nan", frequency_penalty=NAN),
    "repetition_penalty 0": _completion("repetition_penalty", "above 0", repetition_penalty=0),
    "seed huge": _completion("seed", "seed", seed=2**200),
    "seed text": _completion("seed", "'x'", seed="x"),
    "min_tokens over max": _completion("min_tokens", "not 5", min_tokens=5),
    "stop number": _completion("stop", "not 5", stop=5),
    "stop empty": _completion("stop", "non-empty", stop=["a", ""]),
    "stop too many": _completion("stop", "64", stop=["a"] * 65),
    "stop_token_ids huge": _completion("stop_token_ids", str(2**70), stop_token_ids=[2**70]),
    "stop_token_ids unknown": _completion("stop_token_ids", "384", stop_token_ids=[VOCAB_SIZE]),
    "stop_token_ids text": _completion("stop_token_ids.0", "'a'", stop_token_ids=["a"]),
    "logit_bias unknown token": _completion("logit_bias", "384", logit_bias={"384": 1}),
    "logit_bias huge token": _completion("logit_bias", str(2**70), logit_bias={str(2**70): 1}),
    "logit_bias no token": _completion("logit_bias", "'x'", logit_bias={"x": 1}),
    "logit_bias odd digits": _completion("logit_bias", "'1_0'", logit_bias={"1_0": 1}),
    "logit_bias NaN": _completion("logit_bias", "nan", logit_bias={"1": NAN}),
    "logit_bias infinite": _completion("logit_bias", "inf", logit_bias={"1": INF}),
    "logit_bias 101": _completion("logit_bias", "101", logit_bias={"1": 101}),
    "logit_bias list": _completion("logit_bias", "[1]", logit_bias=[1]),
    "logprobs 21": _completion("logprobs", "21", logprobs=21),
    "logprobs boolean": _completion("logprobs", "True", logprobs=True),
    "prompt_logprobs 21": _completion("prompt_logprobs", "21", prompt_logprobs=21),
    "stream text": _completion("stream", "'yes'", stream="yes"),
    "stream_options without stream": _completion(
        "stream_options", "stream: true", stream_options={}
    ),
    "stream_options number": _completion("stream_options", "not 3", stream_options=3, stream=True),
}

CHATS = {
    "no messages": _chat("messages", "messages", messages=[]),
    "messages text": _chat("messages", "'x'", messages="x"),
    "message number": _chat("messages.0", "not 1", messages=[1]),
    "no role": _chat("messages.0.role", "role", messages=[{"content": "x"}]),
    "no content": _chat("messages.1.content", "content", messages=[USER, {"role": "user"}]),
    "image": _chat(
        "messages.0.content",
        "image_url",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    ),
    "long conversation": _chat("messages", "tokens", messages=[USER] * 100),
    "top_logprobs without logprobs": _chat("top_logprobs", "logprobs", top_logprobs=2),
    "top_logprobs 21": _chat("logprobs", "21", top_logprobs=21, logprobs=True),
    "logprobs number": _chat("logprobs", "not 3", logprobs=3),
    "max_tokens 0": _chat("max_tokens", "not 0", max_tokens=0),
    "max_completion_tokens -1": _chat("max_completion_tokens", "-1", max_completion_tokens=-1),
    "max_completion_tokens absurd": _chat(
        "max_completion_tokens", "1000000", max_completion_tokens=10**6
    ),
    "echo": _chat("echo", "echo", echo=True),
}

ADAPTERS = {
    "unknown model": _completion("model", "`nobody`", 404, model="nobody"),
    "empty model": _completion("model", "``", 404, model=""),
    "version of the base": _completion("model", "`tiny@1`", 404, model="tiny@1"),
    "unknown version": _completion("model", f"`{ADAPTER}@7`", 404, model=f"{ADAPTER}@7"),
    "malformed digest": _completion("model", "@sha256:12", 404, model=f"{ADAPTER}@sha256:12"),
    "huge version": _completion("model", "@1000", 404, model=f"{ADAPTER}@{10**30}"),
    "model with a NUL": _completion("model", "\0", 404, model="a\0b"),
    "model number": _completion("model", "not 5", model=5),
    "unknown second adapter": _completion(
        "adapters.1.id", "`nobody`", 404, adapters=[{"id": ADAPTER}, {"id": "nobody"}], merge=LINEAR
    ),
    "the base as adapter": _completion("adapters.0.id", "`tiny`", 404, adapters=[{"id": "tiny"}]),
    "adapter as model and adapters": _completion(
        "model", "'adapters'", model=ADAPTER, adapters=[{"id": ADAPTER}]
    ),
    "merge alone": _completion("merge", "'adapters'", merge=LINEAR),
    **{
        f"merge {says}": _completion(
            f"merge.{field}", says, adapters=[{"id": ADAPTER}], merge=merge
        )
        for field, says, merge in (
            ("method", "'tie'", {"method": "tie"}),
            ("method", "7", {"method": 7}),
            ("densty", "0.5", {"method": "ties", "densty": 0.5}),
            ("density", "0", {"method": "ties", "density": 0}),
            ("density", "1.5", {"method": "ties", "density": 1.5}),
            ("density", "nan", {"method": "ties", "density": NAN}),
            ("density", "'0.5'", {"method": "ties", "density": "0.5"}),
            ("lambda", "inf", {"method": "task_arithmetic", "lambda": INF}),
            ("seed", "5", {"method": "ties", "seed": 5}),
            ("seed", "-1", {"method": "dare_ties", "seed": -1}),
            ("through_mask_of", "[]", {"through_mask_of": []}),
        )
    },
    "merge overflow": _completion(
        "adapters",
        "overflows fp32",
        adapters=[{"id": ADAPTER, "weight": -2}],
        merge={"method": "task_arithmetic", "lambda": 1e300},
    ),
    "merge text": _completion("merge", "'ties'", adapters=[{"id": ADAPTER}], merge="ties"),
    "slerp of one": _completion(
        "adapters", "1", adapters=[{"id": ADAPTER}], merge={"method": "slerp"}
    ),
    "unknown mask": _completion(
        "merge.through_mask_of",
        "`nobody`",
        404,
        adapters=[{"id": ADAPTER}],
        merge={"through_mask_of": "nobody"},
    ),
    "a thousand adapters": _completion("adapters", "64", adapters=[{"id": ADAPTER}] * 1000),
    "no adapters": _completion("adapters", "adapters", adapters=[]),
    "adapters text": _completion("adapters", "'x'", adapters="x"),
    "adapter without id": _completion("adapters.0.id", "id", adapters=[{"weight": 1}]),
    "misspelt weight": _completion(
        "adapters.0.weigth", "weigth", adapters=[{"id": "x", "weigth": 1}]
    ),
    "weight NaN": _completion(
        "adapters.0.weight", "nan", adapters=[{"id": ADAPTER, "weight": NAN}]
    ),
    "weight infinite": _completion(
        "adapters.0.weight", "inf", adapters=[{"id": ADAPTER, "weight": INF}]
    ),
    "weight text": _completion(
        "adapters.0.weight", "'1'", adapters=[{"id": ADAPTER, "weight": "1"}]
    ),
    "adapter_from negative": _completion("adapter_from", "-1", adapter_from=-1),
    "adapter_from huge": _completion("adapter_from", str(2**70), adapter_from=2**70),
    "adapter_from word": _completion("adapter_from", "'first'", adapter_from="first"),
    "last_turn of a text": _completion("adapter_from", "messages", adapter_from="last_turn"),
    **{
        f"misspelt {name}": _completion(name, name, 400, **{name: "x"})
        for name in (
            "adapter_idd",
            "lora_name",
            "merged_adapter",
            "merge_method",
        )
    },
}

NOT_SERVED = {
    "tools": _chat("tools", "tools", tools=[{"type": "function"}]),
    "response_format": _chat(
        "response_format", "json_schema", response_format={"type": "json_schema"}
    ),
    "suffix": _completion("suffix", "suffix", suffix="end"),
    "best_of": _completion("best_of", "best_of", best_of=3),
    "mode": _completion("mode", "mode", mode="fused"),
}

SURROGATES = {
    f"lone surrogate in {name}": _raw(name, name, rf'"{name}": "a\ud800"')
    for name in ("prompt", "stop", "model", "cache_salt", "user", "response_format", "unknown")
}
SURROGATES |= {
    "lone surrogate in a message": _chat(
        "messages", "messages", messages=[{"role": "user", "content": "\ud800"}]
    ),
    "lone surrogate in a part of a message": _chat(
        "messages", "messages", messages=[{**USER, "name": "\ud800"}]
    ),
    "lone surrogate as a name": _raw("adapter?", "surrogate", r'"adapter\ud800": 1'),
}

TABLE = {
    f"{group}: {name}": bad
    for group, rows in {
        "body": BODIES,
        "prompt": PROMPTS,
        "sampling": SAMPLING,
        "chat": CHATS,
        "adapters": ADAPTERS,
        "not served": NOT_SERVED,
        "text": SURROGATES,
    }.items()
    for name, bad in rows.items()
}

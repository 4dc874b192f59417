"""The official `openai` client, unmodified, against a running server."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from api.conftest import BODY_LIMIT, KEY, kind_names
from openai import AsyncOpenAI, OpenAI
from servers import BASE_NAME, RunningServer, failing_engine, file_bytes, paused_engine
from tiny_adapters import make_adapter

MESSAGES: Any = [{"role": "user", "content": "setting"}]
GREEDY: Any = {"model": BASE_NAME, "max_tokens": 6, "temperature": 0}
TEXTS = ["setting", "small pieces"]
ELEMENT, LOW_RANK = kind_names()["element"], kind_names()["low_rank"]


def _client(server: RunningServer, key: str = "unused") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with _client(server) as made:
        yield made


def _ids(server: RunningServer, text: str) -> list[int]:
    return server.services.codec.encode(text, add_special_tokens=True)


def test_every_form_of_prompt_gives_the_same_text(client: OpenAI, server: RunningServer) -> None:
    ids = [_ids(server, text) for text in TEXTS]
    prompts: Any = [TEXTS[0], TEXTS[:1], ids[0], ids[:1]]
    texts = [client.completions.create(prompt=p, **GREEDY).choices[0].text for p in prompts]
    assert len(set(texts)) == 1
    both = client.completions.create(prompt=TEXTS, **GREEDY)
    same = client.completions.create(prompt=ids, **GREEDY)
    assert [c.text for c in both.choices] == [c.text for c in same.choices]
    assert both.choices[0].text == texts[0]
    assert [c.index for c in both.choices] == [0, 1]


def test_usage_counts_a_prompt_once_and_every_choice(client: OpenAI, server: RunningServer) -> None:
    answer = client.completions.create(prompt=TEXTS, n=3, extra_body={"ignore_eos": True}, **GREEDY)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(len(_ids(server, text)) for text in TEXTS)
    assert answer.usage.completion_tokens == 2 * 3 * GREEDY["max_tokens"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert [choice.index for choice in answer.choices] == list(range(6))


def test_equal_seeds_repeat_and_choices_differ(client: OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        answer = client.completions.create(
            model=BASE_NAME, prompt="setting", n=4, seed=seed, max_tokens=8
        )
        return [choice.text for choice in answer.choices]

    assert texts(3) == texts(3) != texts(400)
    assert len(set(texts(3))) > 1


def test_stop_ends_the_text_before_the_stop_string(
    client: OpenAI, ascii_only: dict[str, Any]
) -> None:
    ask = {"prompt": "setting", "logit_bias": ascii_only, **GREEDY}
    whole = client.completions.create(**ask).choices[0].text
    stop = whole[2:4]
    cut = client.completions.create(stop=["never there", stop], **ask).choices[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_echo_and_logprobs_of_a_completion(client: OpenAI) -> None:
    choice = client.completions.create(prompt="setting", echo=True, logprobs=2, **GREEDY).choices[0]
    assert choice.text.startswith("setting")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)


def test_chat_answers_with_role_reason_and_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None


def test_chat_logprobs_hold_the_chosen_token_and_alternatives(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob  # greedy
        assert bytes(entry.bytes or []).decode() == entry.token


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_chat_stops_at_the_asked_number_of_tokens(client: OpenAI, field: str) -> None:
    limit: Any = {field: 3}
    answer = client.chat.completions.create(
        model=BASE_NAME, messages=MESSAGES, extra_body={"ignore_eos": True}, **limit
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_chat_stream_is_the_whole_answer_in_pieces(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, n=2, seed=1, **GREEDY)
    texts, reasons = ["", ""], [None, None]
    roles = []
    stream: Any = client.chat.completions.create(
        messages=MESSAGES, n=2, seed=1, stream=True, **GREEDY
    )
    for chunk in stream:
        [choice] = chunk.choices
        roles += [choice.delta.role] if choice.delta.role else []
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert roles == ["assistant", "assistant"]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]


def test_include_usage_adds_one_last_chunk_without_choices(client: OpenAI) -> None:
    for create, prompt in (
        (client.completions.create, {"prompt": "setting"}),
        (client.chat.completions.create, {"messages": MESSAGES}),
    ):
        ask: Any = create
        chunks = list(ask(**prompt, stream=True, stream_options={"include_usage": True}, **GREEDY))
        assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        assert all(chunk.usage is None for chunk in chunks[:-1])
        whole = ask(**prompt, **GREEDY)
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_models_are_the_base_and_the_adapters(client: OpenAI, server: RunningServer) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {BASE_NAME, *kind_names().values()} <= models.keys()
    adapter = client.models.retrieve(ELEMENT)
    assert adapter.model_dump() == models[ELEMENT].model_dump()
    shown = adapter.model_dump()
    assert shown["parent"] == BASE_NAME
    assert shown["root"] == server.services.store.resolve(ELEMENT).digest
    assert models[BASE_NAME].model_dump()["parent"] is None


@pytest.mark.parametrize("name", kind_names().values())
def test_an_adapter_as_model_changes_the_text(client: OpenAI, name: str) -> None:
    def text(**fields: Any) -> tuple[str, str]:
        answer = client.completions.create(
            prompt="setting", **{**GREEDY, "max_tokens": 16, **fields}
        )
        return answer.model, answer.choices[0].text

    base, adapted = text(), text(model=name)
    assert adapted[0] == f"{name}@1"
    assert adapted[1] != base[1]
    assert text(extra_body={"adapters": [{"id": name}]}) == adapted


def test_adapters_with_linear_merge_are_a_weighted_sum(client: OpenAI) -> None:
    def text(*members: tuple[str, float]) -> str:
        adapters = [{"id": name, "weight": weight} for name, weight in members]
        extra = {"adapters": adapters, "merge": {"method": "linear"}}
        answer = client.completions.create(
            prompt="setting", extra_body=extra, **{**GREEDY, "max_tokens": 16}
        )
        return str(answer.choices[0].text)

    both = text((ELEMENT, 1.0), (LOW_RANK, 0.5))
    assert both == text((LOW_RANK, 0.25), (ELEMENT, 1.0), (LOW_RANK, 0.25))
    assert both not in (text((ELEMENT, 1.0)), text((LOW_RANK, 0.5)))
    assert (
        text((ELEMENT, 0.0))
        == client.completions.create(prompt="setting", **{**GREEDY, "max_tokens": 16})
        .choices[0]
        .text
    )


def _post_adapter(client: OpenAI, name: str, content: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    client.post(
        "/adapters",
        cast_to=object,
        body={"name": name},
        files=[("file", ("adapter.safetensors", content))],
        options={"headers": headers},
    )


Failing = Callable[[OpenAI, bytes], object]
FAILURES: dict[str, tuple[type[openai.APIStatusError], int, Failing]] = {
    "400": (
        openai.BadRequestError,
        400,
        lambda c, _: c.completions.create(model=BASE_NAME, prompt=""),
    ),
    "404": (
        openai.NotFoundError,
        404,
        lambda c, _: c.completions.create(model="nobody", prompt="x"),
    ),
    "404 of a model": (openai.NotFoundError, 404, lambda c, _: c.models.retrieve("nobody@3")),
    "409": (openai.ConflictError, 409, lambda c, good: _post_adapter(c, BASE_NAME, good)),
    "413": (
        openai.APIStatusError,
        413,
        lambda c, _: c.completions.create(model=BASE_NAME, prompt="x" * BODY_LIMIT),
    ),
    "415": (
        openai.APIStatusError,
        415,
        lambda c, _: c.completions.create(
            model=BASE_NAME, prompt="x", extra_headers={"Content-Type": "text/plain"}
        ),
    ),
    "422": (
        openai.UnprocessableEntityError,
        422,
        lambda c, _: _post_adapter(c, "new", b"no adapter"),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_errors_are_the_clients_own_classes(
    client: OpenAI, server: RunningServer, case: str
) -> None:
    error_class, status, call = FAILURES[case]
    with pytest.raises(error_class) as caught:
        call(client, file_bytes(make_adapter(server.base)))
    assert caught.value.status_code == status
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert {"message", "type", "param", "code"} <= caught.value.response.json()["error"].keys()


def test_a_wrong_key_is_an_authentication_error(keyed_server: RunningServer) -> None:
    with _client(keyed_server, "wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with _client(keyed_server, KEY) as client:
        assert [model.id for model in client.models.list()] == [BASE_NAME]


def test_a_full_queue_is_a_rate_limit_error_with_retry_after(cramped_server: RunningServer) -> None:
    """One runs, two more come while it does: one may wait."""

    def ask(client: OpenAI) -> openai.RateLimitError | None:
        try:
            client.completions.create(model=BASE_NAME, prompt="x", max_tokens=1)
        except openai.RateLimitError as refused:
            return refused
        return None

    with (
        _client(cramped_server) as client,
        ThreadPoolExecutor(3) as pool,
        paused_engine(cramped_server) as proceed,
    ):
        asked = [pool.submit(ask, client)]
        cramped_server.wait_for(running=1)
        asked += [pool.submit(ask, client) for _ in range(2)]
        cramped_server.wait_for(commands=2)
        proceed.set()
        [refused] = [error for answer in asked if (error := answer.result())]
    assert int(refused.response.headers["retry-after"]) >= 1


def test_more_choices_than_may_ever_wait_are_a_bad_request(cramped_server: RunningServer) -> None:
    with _client(cramped_server) as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=BASE_NAME, prompt="x", n=2)
    assert caught.value.param == "prompt"


def test_adapter_that_never_fits_is_an_internal_server_error(cramped_server: RunningServer) -> None:
    with _client(cramped_server) as client, pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="e", prompt="x")
    assert (caught.value.status_code, caught.value.code) == (503, "adapter_memory_full")


def test_an_error_inside_a_stream_is_raised_after_what_came(
    client: OpenAI, server: RunningServer
) -> None:
    received = []
    ask: Any = {"max_tokens": 50, "stream": True, "logprobs": 0, "extra_body": {"ignore_eos": True}}
    with failing_engine(server, after_steps=5), pytest.raises(openai.APIError) as caught:  # noqa: PT012
        for chunk in client.completions.create(model=BASE_NAME, prompt="setting", **ask):
            received.append(chunk)
    assert "RuntimeError" in caught.value.message
    assert caught.value.code == "step_failed"
    assert received
    assert client.completions.create(prompt="setting", **GREEDY).choices  # the server goes on


def test_the_asynchronous_client_gets_the_same_answers(
    client: OpenAI, server: RunningServer
) -> None:
    async def ask() -> tuple[list[str], list[str], str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as asking:
            models = ["tiny", ELEMENT, LOW_RANK]
            answers = await asyncio.gather(
                *(
                    asking.completions.create(prompt="setting", **{**GREEDY, "model": m})
                    for m in models
                )
            )
            chat = await asking.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in chat]
            listed = [model.id async for model in asking.models.list()]
            return [a.choices[0].text for a in answers], listed, "".join(pieces)

    texts, listed, chat = asyncio.run(ask())
    for model, text in zip(["tiny", ELEMENT, LOW_RANK], texts, strict=True):
        alone = client.completions.create(prompt="setting", **{**GREEDY, "model": model})
        assert text == alone.choices[0].text
    assert listed == [model.id for model in client.models.list()]
    assert (
        chat
        == client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content
    )


def test_an_unknown_model_is_refused_before_a_stream_begins(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt="x", stream=True)

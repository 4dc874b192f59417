"""From prompts and messages to token ids, with every limit checked and named."""

from collections.abc import Iterable
from typing import Any, cast

from jinja2 import TemplateError

from server.api.schemas import ChatBody, CompletionBody, GenerationBody, Message, Prompts
from server.api.services import Services
from server.engine.errors import InvalidParameter
from server.engine.sampling_params import SamplingParams
from server.errors import BadRequest
from server.model.text import TextCodec


def completion_prompts(body: CompletionBody, codec: TextCodec) -> list[list[int]]:
    """Token ids of every prompt of a completion request: text, texts, ids or lists of ids."""
    given = given_prompts(body.prompt)
    if not given:
        raise BadRequest("prompt must not be empty", "prompt")
    return [_prompt_ids(prompt, body.add_special_tokens, codec) for prompt in given]


def given_prompts(prompt: Prompts) -> list[str | list[int]]:
    """One prompt is a list of one; a list of ints is one prompt of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(isinstance(item, int) for item in prompt):
        return [cast(list[int], prompt)]
    return cast(list[str | list[int]], prompt)


def _prompt_ids(prompt: str | list[int], add_special_tokens: bool, codec: TextCodec) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    return codec.encode(prompt, add_special_tokens=add_special_tokens)


def chat_prompt(body: ChatBody, codec: TextCodec) -> list[int]:
    """Token ids of the conversation, as the checkpoint's chat template writes it."""
    return render(turns(body.messages), body.add_generation_prompt, codec)


def adapter_start(body: GenerationBody, prompt: list[int], services: Services) -> int:
    """Index of the first token that the adapters apply to."""
    if isinstance(body.adapter_from, int):
        if not 0 <= body.adapter_from < services.max_model_len:
            expected = f"a token index from 0 to {services.max_model_len - 1}, or 'last_turn'"
            raise InvalidParameter("adapter_from", body.adapter_from, expected)
        return body.adapter_from
    if not isinstance(body, ChatBody):
        raise BadRequest("adapter_from 'last_turn' needs messages", "adapter_from")
    return _common_prefix(prompt, _before_last_turn(body, services.codec))


def check_prompt(prompt: list[int], services: Services, param: str) -> None:
    """Raise BadRequest unless `prompt` leaves room for a token and holds only known ids."""
    if not prompt:
        raise BadRequest(f"{param} must not be empty", param)
    max_model_len = services.max_model_len
    if len(prompt) >= max_model_len:
        raise BadRequest(
            f"{param} has {len(prompt)} tokens; the context is {max_model_len} tokens, "
            "of which at least one is for the answer",
            param,
        )
    check_ids(prompt, services.vocab_size, param)


def max_tokens_of(asked: int | None, prompt: list[int], max_model_len: int, param: str) -> int:
    """How many tokens may be generated: what is asked, or all that is left."""
    left = max_model_len - len(prompt)
    if asked is None:
        return left
    if asked > left:
        raise InvalidParameter(
            param,
            asked,
            f"at most {left}: the context is {max_model_len} tokens, "
            f"of which the prompt has {len(prompt)}",
        )
    return asked


def check_token_ids(sampling: SamplingParams, vocab_size: int) -> None:
    """Raise unless the token ids that `sampling` names exist."""
    check_ids(sampling.stop_token_ids, vocab_size, "stop_token_ids")
    check_ids(sampling.logit_bias, vocab_size, "logit_bias")


def sampling_for(
    body: GenerationBody,
    services: Services,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    seed: int,
) -> SamplingParams:
    """The engine's parameters, checked; what the body leaves open is the checkpoint's default."""
    sampling = body.sampling(
        max_tokens=max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        seed=seed,
        defaults=dict(services.sampling_defaults),
    )
    check_token_ids(sampling, services.vocab_size)
    return sampling


def check_ids(ids: Iterable[int], vocab_size: int, param: str) -> None:
    """Raise InvalidParameter unless every one of `ids` is in the vocabulary."""
    unknown = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
    if unknown is not None:
        raise InvalidParameter(param, unknown, f"token ids from 0 to {vocab_size - 1}")


def turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as a chat template reads them."""
    return [{**(m.model_extra or {}), "role": m.role, "content": m.text} for m in messages]


def _before_last_turn(body: ChatBody, codec: TextCodec) -> list[int]:
    """The conversation without its last user message and what follows; empty if that is all."""
    messages = turns(body.messages)
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    earlier = messages[: users[-1]] if users else []
    return render(earlier, False, codec) if earlier else []


def render(
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    codec: TextCodec,
    add_special_tokens: bool = False,
) -> list[int]:
    """Token ids of `turns`. Raises BadRequest for what the chat template does not take."""
    try:
        return codec.encode_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            add_special_tokens=add_special_tokens,
        )
    except (TemplateError, ValueError) as error:
        raise BadRequest(f"messages: the chat template says: {error}", "messages") from error


def _common_prefix(first: list[int], second: list[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))

"""`POST /v1/chat/completions`."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from server.api.answering import Shape, answer
from server.api.choices import Choice
from server.api.composing import resolve, sticky_key
from server.api.generation import Job, choice_seeds
from server.api.logprobs import TokenText, chat_logprobs
from server.api.prompts import (
    adapter_start,
    chat_prompt,
    check_prompt,
    max_tokens_of,
    sampling_for,
)
from server.api.schemas import ChatBody
from server.api.services import Services, ServicesDep, require_json
from server.engine.engine import SequenceOutput
from server.engine.errors import InvalidParameter
from server.errors import BadRequest

router = APIRouter(dependencies=[Depends(require_json)])


@router.post("/v1/chat/completions")
async def create_chat_completion(
    body: ChatBody, request: Request, services: ServicesDep
) -> Response:
    """Answer a conversation, written out by the checkpoint's chat template."""
    body.refuse_not_served()
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
    served = await resolve(body, services, sticky_key(body, request))
    jobs = await run_in_threadpool(_jobs, body, services)
    return await answer(request, services, body, served, jobs, _shape(body, request, services))


def _jobs(body: ChatBody, services: Services) -> list[Job]:
    prompt = chat_prompt(body, services.codec)
    check_prompt(prompt, services, "messages")
    sampling: dict[str, Any] = {
        "max_tokens": _max_tokens(body, prompt, services),
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "prompt_logprobs": body.prompt_logprobs,
    }
    start = adapter_start(body, prompt, services)
    return [
        Job(prompt, sampling_for(body, services, **sampling, seed=seed), start)
        for seed in choice_seeds(body.seed, body.n)
    ]


def _max_tokens(body: ChatBody, prompt: list[int], services: Services) -> int:
    newer = body.max_completion_tokens is not None
    param = "max_completion_tokens" if newer else "max_tokens"
    asked = body.max_completion_tokens if newer else body.max_tokens
    if asked is not None and asked < 1:
        raise InvalidParameter(param, asked, "at least 1")
    return max_tokens_of(asked, prompt, services.max_model_len, param)


def _shape(body: ChatBody, request: Request, services: Services) -> Shape:
    writer = _Writer(body, services)
    return Shape(
        id=f"chatcmpl-{request.state.request_id}",
        object="chat.completion",
        chunk_object="chat.completion.chunk",
        whole=writer.whole,
        delta=writer.delta,
        openings=[writer.opening(index) for index in range(body.n)],
    )


class _Writer:
    """Choices of a chat completion, whole or as what an output adds."""

    def __init__(self, body: ChatBody, services: Services) -> None:
        self._body = body
        self._token_text: TokenText = services.codec.token_text

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of a choice: the role, no text."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def whole(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        shown: dict[str, Any] = {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice, 0),
            **choice.ending(),
        }
        if self._body.prompt_logprobs is not None:
            shown["prompt_logprobs"] = choice.shown_prompt_logprobs(self._token_text)
        return shown

    def delta(self, choice: Choice, output: SequenceOutput) -> dict[str, Any] | None:
        if not (output.text or output.finish_reason or self._body.logprobs):
            return None
        since = len(choice.logprobs) - len(output.logprobs)
        return {
            "index": choice.index,
            "delta": {"content": output.text} if output.text else {},
            "logprobs": self._logprobs(choice, since),
            **choice.ending(),
        }

    def _logprobs(self, choice: Choice, since: int) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return chat_logprobs(choice.logprobs[since:], self._token_text)

"""`POST /v1/completions`."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from server.api.answering import Shape, answer
from server.api.choices import Choice
from server.api.composing import resolve, sticky_key
from server.api.generation import Job, choice_seeds
from server.api.logprobs import TokenText, completion_logprobs
from server.api.prompts import (
    adapter_start,
    check_prompt,
    completion_prompts,
    max_tokens_of,
    sampling_for,
)
from server.api.schemas import CompletionBody
from server.api.services import Services, ServicesDep, require_json
from server.engine.engine import SequenceOutput
from server.engine.errors import InvalidParameter
from server.errors import BadRequest

DEFAULT_MAX_TOKENS = 16

router = APIRouter(dependencies=[Depends(require_json)])


@router.post("/v1/completions")
async def create_completion(
    body: CompletionBody, request: Request, services: ServicesDep
) -> Response:
    """Continue one or several prompts, given as text or token ids."""
    body.refuse_not_served()
    served = await resolve(body, services, sticky_key(body, request))
    jobs = await run_in_threadpool(_jobs, body, services)
    return await answer(request, services, body, served, jobs, _shape(body, request, services))


def _jobs(body: CompletionBody, services: Services) -> list[Job]:
    prompts = completion_prompts(body, services.codec)
    if len(prompts) * body.n > services.max_choices:
        most = f"more choices than the {services.max_choices} that may wait"
        raise BadRequest(f"prompt: {len(prompts)} prompts x n = {body.n} are {most}", "prompt")
    if body.max_tokens == 0 and not body.echo:
        raise InvalidParameter("max_tokens", 0, "at least 1 (0 only with echo)")
    return [job for prompt in prompts for job in _jobs_of_prompt(body, prompt, services)]


def _jobs_of_prompt(body: CompletionBody, prompt: list[int], services: Services) -> list[Job]:
    check_prompt(prompt, services, "prompt")
    asked = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    max_tokens = max_tokens_of(asked, prompt, services.max_model_len, "max_tokens")
    scored = body.logprobs if body.echo else None
    return [
        Job(
            prompt,
            sampling_for(
                body,
                services,
                max_tokens=max_tokens,
                logprobs=body.logprobs,
                prompt_logprobs=body.prompt_logprobs if scored is None else scored,
                seed=seed,
            ),
            adapter_start(body, prompt, services),
        )
        for seed in choice_seeds(body.seed, body.n)
    ]


def _shape(body: CompletionBody, request: Request, services: Services) -> Shape:
    writer = _Writer(body, services)
    return Shape(
        id=f"cmpl-{request.state.request_id}",
        object="text_completion",
        chunk_object="text_completion",
        whole=writer.whole,
        delta=writer.delta,
    )


class _Writer:
    """Choices of a completion, whole or as what an output adds."""

    def __init__(self, body: CompletionBody, services: Services) -> None:
        self._body = body
        self._codec = services.codec
        self._token_text: TokenText = services.codec.token_text

    def whole(self, choice: Choice) -> dict[str, Any]:
        return self._choice(choice, self._echoed(choice) + choice.text, 0, with_prompt=True)

    def delta(self, choice: Choice, output: SequenceOutput) -> dict[str, Any] | None:
        is_first = len(choice.token_ids) <= len(output.token_ids)
        echoed = self._echoed(choice) if is_first else ""
        if not (echoed or output.text or output.finish_reason or self._body.logprobs is not None):
            return None
        since = len(choice.token_ids) - len(output.token_ids)
        return self._choice(choice, echoed + output.text, since, with_prompt=is_first)

    def _choice(
        self, choice: Choice, text: str, since: int, *, with_prompt: bool
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(choice, since, with_prompt=with_prompt),
            **choice.ending(),
        }
        if with_prompt and self._body.prompt_logprobs is not None:
            shown["prompt_logprobs"] = choice.shown_prompt_logprobs(self._token_text)
        return shown

    def _logprobs(self, choice: Choice, since: int, *, with_prompt: bool) -> dict[str, Any] | None:
        """Of the output tokens from `since` on, after those of an echoed prompt."""
        if self._body.logprobs is None:
            return None
        token_ids, entries = choice.token_ids[since:], [*choice.logprobs[since:]]
        if not self._body.echo:
            return completion_logprobs(
                token_ids, entries, self._token_text, self._length(choice.token_ids[:since])
            )
        if with_prompt:
            ids = [*choice.prompt, *token_ids]
            every = [None, *choice.prompt_logprobs, *entries]
            return completion_logprobs(ids, every, self._token_text, 0)
        before = self._length([*choice.prompt, *choice.token_ids[:since]])
        return completion_logprobs(token_ids, entries, self._token_text, before)

    def _echoed(self, choice: Choice) -> str:
        if not self._body.echo:
            return ""
        if isinstance(self._body.prompt, str):
            return self._body.prompt
        return self._codec.decode(choice.prompt, self._body.skip_special_tokens)

    def _length(self, token_ids: list[int]) -> int:
        return sum(len(self._token_text(token_id)) for token_id in token_ids)

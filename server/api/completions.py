"""`POST /v1/completions`."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from server.api.answering import Shape, answer
from server.api.choices import Choice
from server.api.composing import resolve, sticky_key
from server.api.generation import Job, choice_seeds
from server.api.logprobs import TextOffsets, TokenText, completion_logprobs, prompt_offsets
from server.api.prompts import (
    adapter_start,
    check_prompt,
    completion_prompts,
    given_prompts,
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
        self._offsets: dict[int, TextOffsets] = {}  # of output tokens, by choice

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
        ids, entries = choice.token_ids[since:], choice.logprobs[since:]
        if not (self._body.echo and with_prompt):
            offsets = self._offsets_of(choice).take(ids)
            return completion_logprobs(ids, entries, self._token_text, offsets)
        offsets = prompt_offsets(choice.prompt, self._echoed(choice), self._codec)
        return completion_logprobs(
            [*choice.prompt, *ids],
            [None, *choice.prompt_logprobs, *entries],
            self._token_text,
            offsets + self._offsets_of(choice).take(ids),
        )

    def _offsets_of(self, choice: Choice) -> TextOffsets:
        if choice.index not in self._offsets:
            start = len(self._echoed(choice))
            self._offsets[choice.index] = TextOffsets(self._codec, start)
        return self._offsets[choice.index]

    def _echoed(self, choice: Choice) -> str:
        """The choice's prompt as it was sent; token ids as their text, special tokens among it."""
        if not self._body.echo:
            return ""
        given = given_prompts(self._body.prompt)[choice.index // self._body.n]
        return given if isinstance(given, str) else self._codec.decode(given, False)

"""What both generation routes do with planned jobs: run them, answer whole or streamed."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.api.choices import Choice, usage
from server.api.composing import Served
from server.api.generation import Job, submit
from server.api.schemas import GenerationBody
from server.api.services import Services
from server.api.streams import DONE, interleave, sse, unless_gone
from server.engine.engine import SequenceOutput
from server.errors import BadRequest, error_body

MAX_IGNORED_NAMES = 32
MAX_IGNORED_CHARS = 64

logger = logging.getLogger(__name__)

Outputs = AsyncIterator[tuple[int, SequenceOutput]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How a route writes its answer."""

    id: str
    object: str
    chunk_object: str
    whole: Callable[[Choice], dict[str, Any]]  # a finished choice
    delta: Callable[[Choice, SequenceOutput], dict[str, Any] | None]  # what an output adds
    openings: Sequence[dict[str, Any]] = ()  # choices of chunks sent before any output


async def answer(
    request: Request,
    services: Services,
    body: GenerationBody,
    served: Served,
    jobs: Sequence[Job],
    shape: Shape,
) -> Response:
    """Run `jobs` and answer in `shape`. The first output decides the status of a stream too."""
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options needs stream: true", "stream_options")
    streams = await unless_gone(
        request, submit(services, served, jobs, request.state.unique_id, body.cache_salt)
    )
    outputs = services.metrics.timed(interleave(streams))
    choices = [Choice(index, job.prompt) for index, job in enumerate(jobs)]
    headers = {**served.headers, **_ignored(body)}
    envelope = {"id": shape.id, "created": int(time.time()), "model": served.model}
    if body.stream:
        first = await unless_gone(request, anext(outputs))
        events = _events(outputs, first, choices, shape, envelope, body)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    await unless_gone(request, _collect(outputs, choices))
    content = {
        **envelope,
        "object": shape.object,
        # In a thread: log-probabilities of a long prompt are many texts to decode.
        "choices": await run_in_threadpool(lambda: [shape.whole(choice) for choice in choices]),
        "usage": usage(choices, body.n),
        "system_fingerprint": None,
    }
    return JSONResponse(content, headers=headers)


async def _collect(outputs: Outputs, choices: Sequence[Choice]) -> None:
    async with aclosing(outputs):  # type: ignore[type-var]
        async for index, output in outputs:
            choices[index].add(output)


async def _events(
    outputs: Outputs,
    first: tuple[int, SequenceOutput],
    choices: Sequence[Choice],
    shape: Shape,
    envelope: dict[str, Any],
    body: GenerationBody,
) -> AsyncIterator[str]:
    options = body.stream_options
    wants_usage = options is not None and options.include_usage
    wants_running_usage = wants_usage and options is not None and options.continuous_usage_stats

    def chunk(choice: dict[str, Any]) -> str:
        counts = usage(choices, body.n) if wants_running_usage else None
        extra = {"usage": counts} if wants_usage else {}
        return sse({**envelope, "object": shape.chunk_object, "choices": [choice], **extra})

    async with aclosing(outputs):  # type: ignore[type-var]
        try:
            for opening in shape.openings:
                yield chunk(opening)
            async for index, output in _after(first, outputs):
                choices[index].add(output)
                if (delta := shape.delta(choices[index], output)) is not None:
                    yield chunk(delta)
        except Exception as error:
            logger.error("stream %s failed", shape.id, exc_info=error)
            yield sse(error_body(error))
        else:
            if wants_usage:
                final = {"choices": [], "usage": usage(choices, body.n)}
                yield sse({**envelope, "object": shape.chunk_object, **final})
        yield DONE


async def _after(first: tuple[int, SequenceOutput], outputs: Outputs) -> Outputs:
    yield first
    async for item in outputs:
        yield item


def _ignored(body: GenerationBody) -> dict[str, str]:
    """Names that a header can hold, of the first few unknown fields."""
    names = [quote(name[:MAX_IGNORED_CHARS]) for name in body.ignored_fields[:MAX_IGNORED_NAMES]]
    return {"x-intarsia-ignored-fields": ",".join(names)} if names else {}

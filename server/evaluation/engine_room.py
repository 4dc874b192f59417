"""Asks the engine on behalf of evaluations, behind live requests in every line.

A sequence that finds no place is asked again later. So is one whose adapters a live request wants
the room of: it gives them up. Knows no rows and no scores.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters_store.errors import AdapterNotFound
from adapters_store.registry.evaluation_errors import SubjectGone
from server.adapters.claims import AdapterLease, given
from server.adapters.errors import LeaseQueueFull
from server.adapters.memory import AdapterMemory
from server.engine.engine import SequenceOutput
from server.engine.errors import QueueFull
from server.engine.loop import EngineLoop, OutputStream
from server.engine.sampling_params import SamplingParams
from server.engine.sequence import FinishReason, GenerationRequest
from server.evaluation.subjects import SourcesOf, Subject

PAUSE_S = 0.05  # before another try
CACHE_SALT = "evaluation"  # what evaluations compute is found by evaluations alone


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one sequence."""

    text: str
    num_tokens: int  # generated
    logprobs: tuple[float, ...]  # of the scored tokens of the prompt
    finish_reason: str


class EngineRoom:
    """One evaluation's way to the engine: at most `max_in_flight` sequences at once.

    For one event loop.
    """

    def __init__(
        self,
        engine: EngineLoop,
        memory: AdapterMemory,
        sources: SourcesOf,
        max_in_flight: int,
    ) -> None:
        self._engine, self._memory, self._sources = engine, memory, sources
        self._id = f"evaluation-{uuid.uuid4().hex}"
        self.max_in_flight = max_in_flight
        self._seats = asyncio.Semaphore(max_in_flight)
        self._leasing = asyncio.Lock()  # one lease is waited for at a time
        self._streams: set[OutputStream] = set()  # of sequences that hold adapters

    async def ask(
        self,
        name: str,
        subject: Subject,
        prompt: tuple[int, ...],
        sampling: SamplingParams,
        priority: int,
    ) -> Reply:
        """Compute one sequence, called `name`. Raises SubjectGone, or what ended it."""
        attempt = 0
        async with self._seats:
            while True:
                request = GenerationRequest(
                    request_id=f"{self._id}-{name}-{attempt}",
                    prompt_token_ids=prompt,
                    sampling=sampling,
                    composition=subject.composition,
                    adapter_names=(subject.id or subject.name,) if subject.sources else (),
                    cache_salt=CACHE_SALT,
                    priority=priority,
                )
                reply = await self._try(request, subject)
                if reply is not None:
                    return reply
                attempt += 1
                await asyncio.sleep(PAUSE_S)

    def give_way(self) -> None:
        """Let go of adapters that live requests wait for the room of."""
        if self._memory.is_crowded:
            for stream in self._streams:
                stream.abort()

    async def _try(self, request: GenerationRequest, subject: Subject) -> Reply | None:
        """None if there was no place for it."""
        try:
            async with self._stream(request, subject) as stream:
                outputs = [output async for output in stream]
        except (QueueFull, LeaseQueueFull):
            return None
        was_aborted = outputs[-1].finish_reason is FinishReason.ABORT
        return None if was_aborted else _reply(outputs)

    @asynccontextmanager
    async def _stream(
        self, request: GenerationRequest, subject: Subject
    ) -> AsyncIterator[OutputStream]:
        lease = await self._lease(subject)
        stream = self._engine.submit(request, lease)
        if subject.sources:
            self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            stream.close()

    async def _lease(self, subject: Subject) -> AdapterLease:
        if not subject.sources:
            return await given(self._memory.lease(()))
        async with self._leasing:
            while self._memory.is_crowded:
                await asyncio.sleep(PAUSE_S)
            try:
                sources = self._sources(subject)
                return await given(self._memory.lease(sources, is_background=True))
            except AdapterNotFound as error:
                raise SubjectGone(subject.name, str(error)) from error


def _reply(outputs: list[SequenceOutput]) -> Reply:
    reason = outputs[-1].finish_reason
    assert reason is not None
    return Reply(
        text="".join(output.text for output in outputs),
        num_tokens=sum(len(output.token_ids) for output in outputs),
        logprobs=tuple(each.logprob for output in outputs for each in output.prompt_logprobs),
        finish_reason=reason.value,
    )

"""The asynchronous client: `client` again, method for method, with its awaits.

Whatever is not sending or awaiting belongs in `wire` or `answers`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from intarsia_client import diagnosis, files, merge_wire, wire
from intarsia_client.answers import ChunkReader, raise_for_status, transport_errors
from intarsia_client.async_evaluations import AsyncEvaluationMethods
from intarsia_client.errors import ConnectionFailed, Unavailable
from intarsia_client.generation import ChatCompletion, Chunk, Completion
from intarsia_client.jobs import Job, MergeMethod
from intarsia_client.options import AdapterFilter, ChatOptions, CompletionOptions
from intarsia_client.types import (
    Adapter,
    AdapterEffect,
    AdapterName,
    AdapterWeight,
    Deleted,
    Json,
    Model,
    ServerVersion,
)
from intarsia_client.wire import Call, Messages, Target

T = TypeVar("T")


class AsyncClient(AsyncEvaluationMethods):
    """Talks to one server from one event loop. What goes wrong is an IntarsiaError,
    apart from the OSError of a file on this machine.

    `api_key` is taken from INTARSIA_API_KEY when None; `timeout` is in seconds.
    """

    def __init__(
        self,
        base_url: str = wire.DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = wire.DEFAULT_TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        arguments = wire.connection(base_url, api_key, timeout)
        self._http = httpx.AsyncClient(**arguments, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def generate(
        self, prompt: str | Sequence[int], *, model: str, **options: Unpack[CompletionOptions]
    ) -> Completion:
        """Continues a prompt, given as text or as token ids."""
        return await self._send(wire.completion(prompt, model, options))

    def stream(
        self, prompt: str | Sequence[int], *, model: str, **options: Unpack[CompletionOptions]
    ) -> AsyncGenerator[Chunk, None]:
        """As `generate`, piece by piece; sent at the first `anext`, ended by closing it."""
        return self._stream(wire.completion(prompt, model, options, stream=True))

    async def chat(
        self, messages: Messages, *, model: str, **options: Unpack[ChatOptions]
    ) -> ChatCompletion:
        """Answers a conversation; a string stands for one message of the user."""
        return await self._send(wire.chat(messages, model, options))

    def stream_chat(
        self, messages: Messages, *, model: str, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[Chunk, None]:
        """As `chat`, piece by piece; sent at the first `anext`, ended by closing it."""
        return self._stream(wire.chat(messages, model, options, stream=True))

    async def upload(
        self,
        path: Path | str,
        name: str,
        metadata: Json | None = None,
        *,
        signature: str | None = None,
        dry_run: bool = False,
        on_progress: files.OnProgress | None = None,
    ) -> Adapter:
        """Publishes a `.safetensors`, `.zip` or `.tar.gz` file, or a PEFT directory, as `name`.

        A server that trusts certain keys wants the `signature` of one of them, in base64, over
        the adapter's digest. A dry run checks and measures it, and keeps nothing.
        `on_progress` is called with the bytes sent so far and in all.
        """
        with ExitStack() as stack:
            # In a thread, because a directory is packed first.
            source = files.outgoing(Path(path), on_progress)
            file = await asyncio.to_thread(stack.enter_context, source)
            return await self._send(wire.upload(file, name, metadata, dry_run, signature))

    async def adapters(
        self, *, page_size: int = 100, **wanted: Unpack[AdapterFilter]
    ) -> AsyncIterator[Adapter]:
        """Every adapter that `wanted` holds for, asked for a page at a time."""
        after: str | None = None
        while True:
            page = await self._send(wire.adapter_page(page_size, after, wanted))
            for adapter in page.data:
                yield adapter
            after = page.next_cursor
            if after is None:
                return

    async def adapter(self, reference: str) -> Adapter:
        """One adapter by `name`, `name@3`, `name@alias` or `name@sha256:…`."""
        return await self._send(wire.adapter(reference))

    async def change(
        self,
        reference: str,
        *,
        aliases: Mapping[str, Target] | None = None,
        pinned: bool | None = None,
        metadata: Json | None = None,
    ) -> AdapterName:
        """Moves aliases (None removes one), pins, changes metadata: everything or nothing."""
        return await self._send(wire.change(reference, aliases, pinned, metadata))

    async def rollback(self, name: str, alias: str) -> AdapterName:
        """Returns an alias to what it stood for before its last move."""
        return await self._send(wire.rollback(name, alias))

    async def stats(self, reference: str) -> AdapterEffect:
        """What a stored adapter does to the base, layer by layer."""
        return await self._send(wire.stats(reference))

    async def delete(
        self, reference: str, *, force: bool = False, wait: float | None = None
    ) -> Deleted:
        """Deletes what `reference` names, and says what came free.

        Running requests keep it; the answer comes when they have ended, or after `wait` seconds
        (unless told the server's own), with the state "draining". What an alias points at is kept
        (Conflict) unless `force` removes the alias too.
        """
        return await self._send(wire.delete(reference, force, wait))

    async def download(self, reference: str, to: Path | str) -> Path:
        """Writes an adapter to the file `to`, which appears only once it is complete."""
        async with self._open(wire.download(reference)) as response:
            with files.incoming(Path(to)) as file:
                async for data in response.aiter_bytes():
                    file.write(data)
        return Path(to)

    async def merge(
        self,
        name: str,
        adapters: Sequence[AdapterWeight],
        *,
        merge: Json | None = None,
        metadata: Json | None = None,
    ) -> Adapter:
        """Publishes a merge as `name`, and answers when it is there.

        `merge` is {"method": name, **parameters}; the server's default method when None.
        """
        return await self._send(merge_wire.merge(name, adapters, merge, metadata))

    async def start_merge(
        self,
        name: str,
        adapters: Sequence[AdapterWeight],
        *,
        merge: Json | None = None,
        metadata: Json | None = None,
    ) -> Job:
        """As `merge`, but answers with the job at once; its `result` will name the adapter."""
        return await self._send(merge_wire.start_merge(name, adapters, merge, metadata))

    async def diagnose(
        self, adapters: Sequence[AdapterWeight], **bounds: Unpack[diagnosis.Bounds]
    ) -> diagnosis.Diagnosis:
        """Tells how adapters overlap and interfere, before they are merged."""
        return await self._send(diagnosis.diagnose(adapters, bounds))

    async def merge_methods(self) -> tuple[MergeMethod, ...]:
        """The ways to merge, and what each may be told."""
        return await self._send(merge_wire.merge_methods())

    async def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return await self._send(merge_wire.job(job_id))

    async def jobs(self, limit: int = 100) -> tuple[Job, ...]:
        """At most `limit` jobs, the newest first."""
        return await self._send(merge_wire.jobs(limit))

    async def cancel(self, job_id: str) -> Job:
        """Ends a job before its time; one that has ended stays as it is."""
        return await self._send(merge_wire.cancel(job_id))

    async def models(self) -> tuple[Model, ...]:
        """The base and every adapter that `model` may name."""
        return await self._send(wire.models())

    async def version(self) -> ServerVersion:
        return await self._send(wire.version())

    async def ready(self) -> bool:
        """Whether generations would be taken now; False as well when nothing listens."""
        try:
            return await self._send(wire.ready())
        except (ConnectionFailed, Unavailable):
            return False

    async def _send(self, call: Call[T]) -> T:
        with transport_errors():
            response = await self._http.send(call.request(self._http))
        return call.answer(response)

    async def _stream(self, call: Call[Any]) -> AsyncGenerator[Chunk, None]:
        async with self._open(call) as response:
            reader = ChunkReader(response)
            async for data in response.aiter_bytes():
                for chunk in reader.feed(data):
                    yield chunk
            reader.finish()

    @asynccontextmanager
    async def _open(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """A successful response whose body is still to come; closed on the way out."""
        with transport_errors():
            response = await self._http.send(call.request(self._http), stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                raise_for_status(response)
                yield response
            finally:
                await response.aclose()

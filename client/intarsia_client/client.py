"""The synchronous client: sends the calls of `wire` and hands back what they read.

`async_client` is its twin; whatever is not sending or awaiting belongs in `wire` or `answers`.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from intarsia_client import diagnosis, files, merge_wire, wire
from intarsia_client.answers import ChunkReader, raise_for_status, transport_errors
from intarsia_client.errors import ConnectionFailed, Unavailable
from intarsia_client.evaluations import EvaluationMethods
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


class Client(EvaluationMethods):
    """Talks to one server. Threads may share it. What goes wrong is an IntarsiaError,
    apart from the OSError of a file on this machine.

    `api_key` is taken from INTARSIA_API_KEY when None; `timeout` is in seconds.
    """

    def __init__(
        self,
        base_url: str = wire.DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = wire.DEFAULT_TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        arguments = wire.connection(base_url, api_key, timeout)
        self._http = httpx.Client(**arguments, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def generate(
        self, prompt: str | Sequence[int], *, model: str, **options: Unpack[CompletionOptions]
    ) -> Completion:
        """Continues a prompt, given as text or as token ids."""
        return self._send(wire.completion(prompt, model, options))

    def stream(
        self, prompt: str | Sequence[int], *, model: str, **options: Unpack[CompletionOptions]
    ) -> Generator[Chunk, None, None]:
        """As `generate`, piece by piece; sent at the first `next`, ended by closing it."""
        return self._stream(wire.completion(prompt, model, options, stream=True))

    def chat(
        self, messages: Messages, *, model: str, **options: Unpack[ChatOptions]
    ) -> ChatCompletion:
        """Answers a conversation; a string stands for one message of the user."""
        return self._send(wire.chat(messages, model, options))

    def stream_chat(
        self, messages: Messages, *, model: str, **options: Unpack[ChatOptions]
    ) -> Generator[Chunk, None, None]:
        """As `chat`, piece by piece; sent at the first `next`, ended by closing it."""
        return self._stream(wire.chat(messages, model, options, stream=True))

    def upload(
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
        with files.outgoing(Path(path), on_progress) as file:
            return self._send(wire.upload(file, name, metadata, dry_run, signature))

    def adapters(
        self, *, page_size: int = 100, **wanted: Unpack[AdapterFilter]
    ) -> Iterator[Adapter]:
        """Every adapter that `wanted` holds for, asked for a page at a time."""
        after: str | None = None
        while True:
            page = self._send(wire.adapter_page(page_size, after, wanted))
            yield from page.data
            after = page.next_cursor
            if after is None:
                return

    def adapter(self, reference: str) -> Adapter:
        """One adapter by `name`, `name@3`, `name@alias` or `name@sha256:…`."""
        return self._send(wire.adapter(reference))

    def change(
        self,
        reference: str,
        *,
        aliases: Mapping[str, Target] | None = None,
        pinned: bool | None = None,
        metadata: Json | None = None,
    ) -> AdapterName:
        """Moves aliases (None removes one), pins, changes metadata: everything or nothing."""
        return self._send(wire.change(reference, aliases, pinned, metadata))

    def rollback(self, name: str, alias: str) -> AdapterName:
        """Returns an alias to what it stood for before its last move."""
        return self._send(wire.rollback(name, alias))

    def stats(self, reference: str) -> AdapterEffect:
        """What a stored adapter does to the base, layer by layer."""
        return self._send(wire.stats(reference))

    def delete(self, reference: str, *, force: bool = False, wait: float | None = None) -> Deleted:
        """Deletes what `reference` names, and says what came free.

        Running requests keep it; the answer comes when they have ended, or after `wait` seconds
        (unless told the server's own), with the state "draining". What an alias points at is kept
        (Conflict) unless `force` removes the alias too.
        """
        return self._send(wire.delete(reference, force, wait))

    def download(self, reference: str, to: Path | str) -> Path:
        """Writes an adapter to the file `to`, which appears only once it is complete."""
        with self._open(wire.download(reference)) as response, files.incoming(Path(to)) as file:
            for data in response.iter_bytes():
                file.write(data)
        return Path(to)

    def merge(
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
        return self._send(merge_wire.merge(name, adapters, merge, metadata))

    def start_merge(
        self,
        name: str,
        adapters: Sequence[AdapterWeight],
        *,
        merge: Json | None = None,
        metadata: Json | None = None,
    ) -> Job:
        """As `merge`, but answers with the job at once; its `result` will name the adapter."""
        return self._send(merge_wire.start_merge(name, adapters, merge, metadata))

    def diagnose(
        self, adapters: Sequence[AdapterWeight], **bounds: Unpack[diagnosis.Bounds]
    ) -> diagnosis.Diagnosis:
        """Tells how adapters overlap and interfere, before they are merged."""
        return self._send(diagnosis.diagnose(adapters, bounds))

    def merge_methods(self) -> tuple[MergeMethod, ...]:
        """The ways to merge, and what each may be told."""
        return self._send(merge_wire.merge_methods())

    def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return self._send(merge_wire.job(job_id))

    def jobs(self, limit: int = 100) -> tuple[Job, ...]:
        """At most `limit` jobs, the newest first."""
        return self._send(merge_wire.jobs(limit))

    def cancel(self, job_id: str) -> Job:
        """Ends a job before its time; one that has ended stays as it is."""
        return self._send(merge_wire.cancel(job_id))

    def models(self) -> tuple[Model, ...]:
        """The base and every adapter that `model` may name."""
        return self._send(wire.models())

    def version(self) -> ServerVersion:
        return self._send(wire.version())

    def ready(self) -> bool:
        """Whether generations would be taken now; False as well when nothing listens."""
        try:
            return self._send(wire.ready())
        except (ConnectionFailed, Unavailable):
            return False

    def _send(self, call: Call[T]) -> T:
        with transport_errors():
            response = self._http.send(call.request(self._http))
        return call.answer(response)

    def _stream(self, call: Call[Any]) -> Generator[Chunk, None, None]:
        with self._open(call) as response:
            reader = ChunkReader(response)
            for data in response.iter_bytes():
                yield from reader.feed(data)
            reader.finish()

    @contextmanager
    def _open(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """A successful response whose body is still to come; closed on the way out."""
        with transport_errors():
            response = self._http.send(call.request(self._http), stream=True)
            try:
                if not response.is_success:
                    response.read()
                raise_for_status(response)
                yield response
            finally:
                response.close()

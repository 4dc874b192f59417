"""Reads what came back: JSON, errors, streams. Does no input or output itself."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from intarsia_client.errors import (
    APIError,
    ConnectionFailed,
    Timeout,
    UnexpectedAnswer,
    error_class,
)
from intarsia_client.generation import Chunk, Served
from intarsia_client.sse import EventParser
from intarsia_client.types import Json

END_OF_STREAM = "[DONE]"
EXCERPT_CHARS = 200
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)  # how reading a strange shape fails


@contextmanager
def transport_errors() -> Iterator[None]:
    """Turns what httpx raises on the way to an answer into errors of this package."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise Timeout(f"no answer in time: {_what_failed(error)}") from error
    except httpx.RequestError as error:
        raise ConnectionFailed(f"connection failed: {_what_failed(error)}") from error


def _what_failed(error: httpx.RequestError) -> str:
    request = error.request
    return f"{request.method} {request.url}: {str(error) or type(error).__name__}"


@contextmanager
def unreadable(request: httpx.Request) -> Iterator[None]:
    """Turns a failure to read a successful answer into UnexpectedAnswer."""
    try:
        yield
    except UNREADABLE as error:
        name = f"{request.method} {request.url.path}"
        raise UnexpectedAnswer(name, f"{type(error).__name__}: {error}") from error


def raise_for_status(response: httpx.Response) -> None:
    """Raises the error that a response other than 2xx stands for; its body must have been read."""
    if not response.is_success:
        raise _api_error(response.status_code, response.text, response.headers)


def served(response: httpx.Response) -> Served:
    return Served.from_headers(response.headers)


class ChunkReader:
    """Mutable. Turns the bytes of one streamed answer into chunks."""

    def __init__(self, response: httpx.Response) -> None:
        self._request, self._headers = response.request, response.headers
        self._served = served(response)
        self._events = EventParser()
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises an APIError that came between them."""
        for event in self._events.feed(data):
            if event.data == END_OF_STREAM:
                self._ended = True
            else:
                yield self._chunk(event.data)

    def finish(self) -> None:
        """Call at the end of the bytes: raises ConnectionFailed when the stream was cut short."""
        if not self._ended:
            raise ConnectionFailed(f"the stream ended before {END_OF_STREAM}")

    def _chunk(self, data: str) -> Chunk:
        with unreadable(self._request):
            raw = json.loads(data)
            if "error" not in raw:
                return Chunk.from_json(raw, self._served)
        raise _api_error(_status_of(raw["error"]), data, self._headers)


def _status_of(error: Any) -> int:
    """The status an error would have had, had the stream not begun with 200."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _api_error(status: int, body: str, headers: Mapping[str, str]) -> APIError:
    error = _error_object(body)
    return error_class(status)(
        status,
        str(error.get("message") or body.strip()[:EXCERPT_CHARS] or "the server gave no reason"),
        type=error.get("type"),
        param=error.get("param"),
        code=error.get("code"),
        request_id=headers.get("x-request-id"),
        retry_after=_seconds(headers.get("retry-after")),
        raw=error,
    )


def _error_object(body: str) -> Json:
    """The object under `error`; empty when a proxy, say, answered in another shape."""
    try:
        error = json.loads(body)["error"]
    except UNREADABLE:
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is one that the server never sends."""
    try:
        return float(retry_after) if retry_after else None
    except ValueError:
        return None

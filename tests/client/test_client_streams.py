"""Streams: their chunks, their ends, and that closing one closes its connection."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

import httpx
import pytest
from intarsia_client import (
    AsyncClient,
    BadRequest,
    Client,
    ConnectionFailed,
    NotFound,
    ServerError,
    Timeout,
    UnexpectedAnswer,
)

HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str, *, reason: str | None = None, index: int = 0) -> bytes:
    return event(HEAD | {"choices": [{"index": index, "text": text, "finish_reason": reason}]})


def delta(**fields: Any) -> bytes:
    return event(HEAD | {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


END = event(HEAD | {"choices": [], "usage": USAGE})


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Scripted bytes of an answer, one network block after another; an exception breaks it."""

    def __init__(self, *blocks: bytes | Exception) -> None:
        self.blocks, self.num_sent, self.is_closed = blocks, 0, False

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            if isinstance(block, Exception):
                raise block
            self.num_sent += 1
            yield block

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self:
            yield block

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.close()


def test_completion_stream_gives_text_then_usage(drive: Any) -> None:
    blob = piece("é") + piece("𝄞", reason="stop") + END + DONE
    body = Body(*(blob[i : i + 3] for i in range(0, len(blob), 3)))
    headers = {"x-request-id": "r1"}
    chunks = drive(
        lambda _: httpx.Response(200, stream=body, headers=headers), "stream", "a", model="m"
    )
    assert [chunk.text for chunk in chunks] == ["é", "𝄞", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, "stop", None]
    assert [chunk.usage and chunk.usage.total_tokens for chunk in chunks] == [None, None, 3]
    assert {chunk.served.request_id for chunk in chunks} == {"r1"}
    assert body.is_closed


def test_chat_stream_gives_the_deltas_content(drive: Any) -> None:
    blocks = [delta(role="assistant", content=""), delta(content="Hi"), delta(), END, DONE]
    chunks = drive(
        lambda _: httpx.Response(200, stream=Body(*blocks)), "stream_chat", "a", model="m"
    )
    assert [chunk.text for chunk in chunks] == ["", "Hi", "", ""]


def test_text_of_a_chunk_is_the_first_choices(drive: Any) -> None:
    blocks = [piece("b", index=1), piece("a"), DONE]
    chunks = drive(lambda _: httpx.Response(200, stream=Body(*blocks)), "stream", "x", model="m")
    assert [chunk.text for chunk in chunks] == ["", "a"]
    assert [chunk.choices[0].index for chunk in chunks] == [1, 0]


OPTIONS = [
    pytest.param({}, {"include_usage": True}, id="usage-by-default"),
    pytest.param({"stream_options": {}}, {}, id="own-stream-options-win"),
]


@pytest.mark.parametrize("method", ["stream", "stream_chat"])
@pytest.mark.parametrize(("options", "sent"), OPTIONS)
def test_stream_is_asked_for(drive: Any, method: str, options: Any, sent: Any) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert (body["stream"], body["stream_options"]) == (True, sent)
        return httpx.Response(200, stream=Body(DONE))

    assert drive(handler, method, "a", model="m", **options) == []


def error(**fields: Any) -> bytes:
    return event({"error": {"message": "no", "type": "t", "param": None, **fields}})


BROKEN = [
    pytest.param([], ConnectionFailed, id="nothing"),
    pytest.param([piece("a")], ConnectionFailed, id="cut-between-events"),
    pytest.param([piece("a"), b"data: [DONE]"], ConnectionFailed, id="cut-inside-the-end"),
    pytest.param([piece("a"), httpx.ReadError("reset")], ConnectionFailed, id="reset"),
    pytest.param([piece("a"), httpx.ReadTimeout("slow")], Timeout, id="timeout"),
    pytest.param([b"data: {]\n\n"], UnexpectedAnswer, id="no-json"),
    pytest.param([b"data: 3\n\n"], UnexpectedAnswer, id="no-object"),
    pytest.param([event({"choices": []})], UnexpectedAnswer, id="no-chunk"),
    pytest.param([error(code="engine_failed"), DONE], ServerError, id="error-event"),
    pytest.param([error(code=400)], BadRequest, id="error-event-with-a-status"),
]


@pytest.mark.parametrize(("blocks", "expected"), BROKEN)
def test_broken_stream_raises_and_is_closed(
    drive: Any, blocks: list[Any], expected: type[Exception]
) -> None:
    body = Body(*blocks)
    with pytest.raises(expected):
        drive(lambda _: httpx.Response(200, stream=body), "stream", "a", model="m")
    assert body.is_closed


def test_chunks_before_an_error_in_the_same_block_are_given() -> None:
    body = Body(piece("a") + error(code=500))
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    with Client(transport=transport) as client, closing(client.stream("a", model="m")) as chunks:
        assert next(chunks).text == "a"
        with pytest.raises(ServerError):
            next(chunks)


def test_refused_stream_raises_the_error_and_is_closed(drive: Any) -> None:
    body = Body(json.dumps({"error": {"message": "The model `x` does not exist."}}).encode())
    with pytest.raises(NotFound, match="does not exist"):
        drive(lambda _: httpx.Response(404, stream=body), "stream", "a", model="x")
    assert body.is_closed


def test_closing_a_stream_early_closes_the_response() -> None:
    body = Body(piece("a"), piece("b"), END, DONE)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    with Client(transport=transport) as client:
        with closing(client.stream("a", model="m")) as chunks:
            assert next(chunks).text == "a"
            assert not body.is_closed
        assert (body.is_closed, body.num_sent) == (True, 1)


def test_closing_an_async_stream_early_closes_the_response() -> None:
    body = Body(piece("a"), piece("b"), END, DONE)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))

    async def run() -> None:
        async with AsyncClient(transport=transport) as client:
            async with aclosing(client.stream("a", model="m")) as chunks:
                assert (await anext(chunks)).text == "a"
                assert not body.is_closed
            assert (body.is_closed, body.num_sent) == (True, 1)

    asyncio.run(run())


def test_cancelling_the_reader_of_a_stream_closes_the_response() -> None:
    body = Body(piece("a"), piece("b"), END, DONE)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    reached = asyncio.Event()

    async def read() -> None:
        async with (
            AsyncClient(transport=transport) as client,
            aclosing(client.stream("a", model="m")) as chunks,
        ):
            async for _ in chunks:
                reached.set()
                await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(read())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert body.is_closed


def test_stream_that_nobody_reads_is_never_sent() -> None:
    transport = httpx.MockTransport(lambda _: pytest.fail("it was sent"))
    with Client(transport=transport) as client:
        client.stream("a", model="m").close()

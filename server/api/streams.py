"""Streams of outputs: several at once, watched for a client that goes away, written as SSE."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from server.engine.engine import SequenceOutput
from server.engine.loop import OutputStream
from server.errors import ClientGone

T = TypeVar("T")

DONE = "data: [DONE]\n\n"


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def sse(data: Mapping[str, Any]) -> str:
    """One event of a text/event-stream. ValueError for a number that JSON cannot hold."""
    return f"data: {_JSON.encode(data)}\n\n"


def interleave(streams: Sequence[OutputStream]) -> AsyncGenerator[tuple[int, SequenceOutput]]:
    """(stream's index, output) as they come. One failing stream ends all; leaving closes all."""
    return _only(*streams) if len(streams) == 1 else _several(streams)


async def _only(stream: OutputStream) -> AsyncGenerator[tuple[int, SequenceOutput]]:
    """The same of one stream, with nothing between it and its reader."""
    try:
        async for output in stream:
            yield 0, output
    finally:
        stream.close()


async def _several(
    streams: Sequence[OutputStream],
) -> AsyncGenerator[tuple[int, SequenceOutput]]:
    outputs: asyncio.Queue[tuple[int, SequenceOutput] | Exception | None] = asyncio.Queue()

    async def pump(index: int, stream: OutputStream) -> None:
        try:
            async for output in stream:
                outputs.put_nowait((index, output))
            outputs.put_nowait(None)
        except Exception as error:
            outputs.put_nowait(error)

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        num_open = len(pumps)
        while num_open:
            output = await outputs.get()
            if output is None:
                num_open -= 1
            elif isinstance(output, Exception):
                raise output
            else:
                yield output
    finally:
        for task, stream in zip(pumps, streams, strict=True):
            task.cancel()
            stream.close()
        await asyncio.gather(*pumps, return_exceptions=True)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled (and ClientGone raised) if the client hangs up.

    The request's body must have been read already.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

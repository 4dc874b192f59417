"""Runs one method of either client against a handler, so that a table of cases serves both."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from intarsia_client import AsyncClient, Client

Handler = Callable[[httpx.Request], httpx.Response]


def drive_sync(handler: Handler, method: str, *args: Any, **options: Any) -> Any:
    with Client(transport=httpx.MockTransport(handler)) as client:
        result = getattr(client, method)(*args, **options)
        return list(result) if isinstance(result, Iterator) else result


def drive_async(handler: Handler, method: str, *args: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(transport=httpx.MockTransport(handler)) as client:
            result = getattr(client, method)(*args, **options)
            if isinstance(result, AsyncIterator):
                return [item async for item in result]
            return await result

    return asyncio.run(run())


@pytest.fixture(params=[drive_sync, drive_async], ids=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Any:
    """`drive(handler, method, *args, **options)`: the method's result, iterators as lists."""
    return request.param


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTARSIA_URL", "INTARSIA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def adapter_json() -> dict[str, Any]:
    """An adapter as the server describes it, with a field newer than this client."""
    layer = {"layer": "model.layers.0.self_attn.qkv_proj", "kind": "element"}
    numbers = {"nnz": 5529, "density": 0.01, "norm": 1.25}
    return {
        "id": "sql@3",
        "name": "sql",
        "version": 3,
        "digest": "sha256:aa",
        "base": "demo",
        "kinds": ["element"],
        "layers": 1,
        "nnz": 5529,
        "bytes": 44232,
        "created": 1700000000.25,
        "metadata": {"task": "sql"},
        "effect": {"layers": [layer | numbers], **numbers},
        "tier": "host",
    }

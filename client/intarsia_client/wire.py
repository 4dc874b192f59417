"""Every call of the HTTP surface as a value: the request it makes and how its answer is read.

Both clients share it, and only send. Does no input or output itself.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar
from urllib.parse import quote

import httpx

from intarsia_client.answers import raise_for_status, served, unreadable
from intarsia_client.errors import InvalidArgument
from intarsia_client.generation import ChatCompletion, Completion
from intarsia_client.types import (
    Adapter,
    AdapterEffect,
    AdapterName,
    AdapterPage,
    Deleted,
    Json,
    Model,
    ServerVersion,
)

T = TypeVar("T")
Target = int | Mapping[int, float] | None  # of an alias: a version, a split, or no more
Messages = str | Sequence[Mapping[str, Any]]

DEFAULT_URL = "http://127.0.0.1:8000"
API_KEY_VARIABLE = "INTARSIA_API_KEY"
# Long, because an answer that is not streamed comes only when the last token is there.
DEFAULT_TIMEOUT = httpx.Timeout(600.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, as arguments of `httpx.Client.build_request`, and the reader of its answer.

    A streamed answer does not come whole, so its client reads it with ChunkReader instead.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    arguments: Mapping[str, Any]

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Raises InvalidArgument for what JSON cannot hold."""
        try:
            return http.build_request(self.method, self.path, **self.arguments)
        except (TypeError, ValueError) as error:
            raise InvalidArgument("request", str(error)) from error

    def answer(self, response: httpx.Response) -> T:
        """What `response`, read to its end, says. Raises APIError or UnexpectedAnswer."""
        raise_for_status(response)
        with unreadable(response.request):
            return self.read(response)


def connection(
    base_url: str, api_key: str | None, timeout: float | httpx.Timeout
) -> dict[str, Any]:
    """The arguments of `httpx.Client` and its asynchronous twin. Raises InvalidArgument."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidArgument("base_url", f"{base_url!r}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidArgument("base_url", f"{base_url!r} is not of the form http://host:port")
    return {"base_url": url, "headers": _authorization(api_key), "timeout": timeout}


def _authorization(api_key: str | None) -> dict[str, str]:
    key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgument("api_key", "it has characters that a header cannot hold")
    return {"authorization": f"Bearer {key}"}


def completion(
    prompt: str | Sequence[int], model: str, options: Mapping[str, Any], *, stream: bool = False
) -> Call[Completion]:
    body = {**_fields(options, stream), "model": model, "prompt": prompt}
    return Call("POST", "/v1/completions", _completion, {"json": body})


def chat(
    messages: Messages, model: str, options: Mapping[str, Any], *, stream: bool = False
) -> Call[ChatCompletion]:
    """A string stands for one message of the user."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {**_fields(options, stream), "model": model, "messages": messages}
    return Call("POST", "/v1/chat/completions", _chat_completion, {"json": body})


def upload(
    file: BinaryIO, name: str, metadata: Json | None, dry_run: bool, signature: str | None = None
) -> Call[Adapter]:
    form = {"name": name} | ({} if metadata is None else {"metadata": _json("metadata", metadata)})
    form |= {} if signature is None else {"signature": signature}
    arguments = {
        "files": {"file": (Path(file.name).name, file)},
        "data": form,
        "params": {"dry_run": "true"} if dry_run else {},
    }
    return Call("POST", "/v1/adapters", _adapter, arguments)


def adapter_page(limit: int, after: str | None, wanted: Mapping[str, Any]) -> Call[AdapterPage]:
    given = {**wanted, "limit": limit, "after": after}
    params = {name: value for name, value in given.items() if value is not None}
    return Call("GET", "/v1/adapters", _adapter_page, {"params": params})


def adapter(reference: str) -> Call[Adapter]:
    return Call("GET", adapter_path(reference), _adapter, {})


def change(
    reference: str, aliases: Mapping[str, Target] | None, pinned: bool | None, metadata: Json | None
) -> Call[AdapterName]:
    """What is None is not sent, and stays."""
    given = {"aliases": aliases, "pinned": pinned, "metadata": metadata}
    body = {name: value for name, value in given.items() if value is not None}
    return Call("PATCH", adapter_path(reference), _adapter_name, {"json": body})


def rollback(name: str, alias: str) -> Call[AdapterName]:
    path = f"{adapter_path(name)}/rollback"
    return Call("POST", path, _adapter_name, {"json": {"alias": alias}})


def stats(reference: str) -> Call[AdapterEffect]:
    path = f"{adapter_path(reference)}/stats"
    return Call("GET", path, lambda r: AdapterEffect.from_json(r.json()), {})


def delete(reference: str, force: bool, wait: float | None) -> Call[Deleted]:
    params = ({"force": "true"} if force else {}) | ({} if wait is None else {"wait": str(wait)})
    path = adapter_path(reference)
    given = {"params": params} if params else {}
    return Call("DELETE", path, lambda r: Deleted.from_json(r.json()), given)


def download(reference: str) -> Call[None]:
    """Its answer is the file itself, for the caller to write as it comes."""
    return Call("GET", f"{adapter_path(reference)}/file", lambda _: None, {})


def models() -> Call[tuple[Model, ...]]:
    return Call("GET", "/v1/models", _models, {})


def version() -> Call[ServerVersion]:
    return Call("GET", "/version", lambda r: ServerVersion.from_json(r.json()), {})


def ready() -> Call[bool]:
    return Call("GET", "/health/ready", lambda _: True, {})


def adapter_path(reference: str) -> str:
    """The path of an adapter; only the `/` between namespace and name stays as it is."""
    if any(part in ("", ".", "..") for part in reference.split("/")):
        raise InvalidArgument("reference", f"{reference!r} does not name an adapter")
    return f"/v1/adapters/{quote(reference, safe='/')}"


def _fields(options: Mapping[str, Any], stream: bool) -> dict[str, Any]:
    """Options as JSON; those that are None are left to the server. Streams count their tokens."""
    body = {name: value for name, value in options.items() if value is not None}
    if "adapters" in body:
        body["adapters"] = [asdict(member) for member in body["adapters"]]
    if not stream:
        return body
    return {"stream_options": {"include_usage": True}, **body, "stream": True}


def _json(field: str, value: Json) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(field, str(error)) from error


def _completion(response: httpx.Response) -> Completion:
    return Completion.from_json(response.json(), served(response))


def _chat_completion(response: httpx.Response) -> ChatCompletion:
    return ChatCompletion.from_json(response.json(), served(response))


def _adapter(response: httpx.Response) -> Adapter:
    return Adapter.from_json(response.json())


def _adapter_name(response: httpx.Response) -> AdapterName:
    return AdapterName.from_json(response.json())


def _adapter_page(response: httpx.Response) -> AdapterPage:
    return AdapterPage.from_json(response.json())


def _models(response: httpx.Response) -> tuple[Model, ...]:
    return tuple(map(Model.from_json, response.json()["data"]))

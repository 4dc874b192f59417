"""Adapter files in and out: `POST /v1/adapters` and `GET /v1/adapters/{reference}/file`."""

import json
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.api.adapters import record_json
from server.api.multipart import FormReader, boundary_of
from server.api.services import ServicesDep
from server.api.stats import effect_json
from server.errors import BadRequest, ClientGone, shown

SUBRESOURCES = ("file", "stats")  # what follows a reference in a path: no name may end in it
TEXT_FIELDS = frozenset({"name", "metadata", "signature"})

router = APIRouter(prefix="/v1/adapters")


@router.post("")
async def upload_adapter(
    request: Request, services: ServicesDep, dry_run: bool = False
) -> JSONResponse:
    """Publish a `.safetensors` of ours, or a zip or tar.gz of a PEFT directory."""
    boundary = boundary_of(request.headers.get("content-type"))
    store = services.store
    with store.quarantine() as directory:
        path = directory / "upload"
        form = await _receive(request, boundary, path, store.max_file_bytes)
        name, metadata = _name(form), _metadata(form.get("metadata"))
        result = await run_in_threadpool(
            store.ingest, path, name, metadata, signature=form.get("signature"), dry_run=dry_run
        )
    if not dry_run:
        services.memory.keep(result.record.digest)
    if result.created and not dry_run:
        await services.pins.keep(name)
    effect = await run_in_threadpool(store.measure, result.adapter)
    body = {**record_json(result.record), "effect": effect_json(effect)}
    return JSONResponse(body, status_code=201 if result.created and not dry_run else 200)


@router.get("/{reference:path}/file")
async def download_adapter(reference: str, request: Request, services: ServicesDep) -> Response:
    """The adapter as `intarsia-adapter/1`, tagged with its digest."""
    record = await run_in_threadpool(services.store.resolve, reference)
    headers = {"etag": f'"{record.digest}"'}
    if _names_tag(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers=headers)
    filename = f"{record.id.replace('/', '--')}.safetensors"
    file = await run_in_threadpool(services.store.open_blob, record.digest)
    return _OpenFileResponse(file, filename, headers)


class _OpenFileResponse(FileResponse):
    """Sends a file that is open already, so that deleting it meanwhile cuts no answer short."""

    def __init__(self, file: BinaryIO, filename: str, headers: dict[str, str]) -> None:
        self._file = file
        super().__init__(
            f"/dev/fd/{file.fileno()}",
            media_type="application/octet-stream",
            filename=filename,
            headers=headers,
            stat_result=Path(f"/dev/fd/{file.fileno()}").stat(),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _names_tag(if_none_match: str | None, tag: str) -> bool:
    """Whether the client says that it has this version; weak tags count, as RFC 9110 has it."""
    tags = [given.strip().removeprefix("W/") for given in (if_none_match or "").split(",")]
    return tag in tags or tags == ["*"]


async def _receive(request: Request, boundary: bytes, path: Path, max_bytes: int) -> dict[str, str]:
    """Write the form's file to `path` as it comes; its text fields."""
    with path.open("xb") as target:
        reader = FormReader(boundary, target, TEXT_FIELDS, max_bytes)
        try:
            async for data in request.stream():
                await run_in_threadpool(reader.feed, data)
        except ClientDisconnect as error:
            raise ClientGone from error
        return reader.finish()


def _name(form: dict[str, str]) -> str:
    name = form.get("name")
    if name is None:
        raise BadRequest("the form field 'name' is missing", "name")
    if name.partition("/")[2] in SUBRESOURCES:
        raise BadRequest(f"name: {name!r} would be taken for a route of another adapter", "name")
    return name


def _metadata(given: str | None) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        metadata = json.loads(given)
        json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"metadata is not JSON: {error}", "metadata") from error
    if not isinstance(metadata, dict):
        raise BadRequest(f"metadata must be a JSON object, not {shown(metadata)}", "metadata")
    return metadata

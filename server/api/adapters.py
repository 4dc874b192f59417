"""`/v1/adapters`: upload, list, inspect, download, delete."""

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.responses import FileResponse, JSONResponse

from adapters_store.effect import Effect, LayerEffect
from adapters_store.errors import InvalidName
from adapters_store.ingest import DeleteResult
from adapters_store.names import parse_reference
from adapters_store.registry import AdapterRecord
from server.api.services import Services, ServicesDep
from server.errors import BadRequest, UnsupportedMedia, shown

SUBRESOURCES = ("file",)  # what follows a reference in a path, so no adapter may end in it
FORM_FIELDS = frozenset({"file", "name", "metadata"})
MULTIPART = "multipart/form-data"

router = APIRouter(prefix="/v1/adapters")


@router.post("")
async def upload_adapter(
    request: Request, services: ServicesDep, dry_run: bool = False
) -> JSONResponse:
    """Publish a `.safetensors` of ours, or a zip or tar.gz of a PEFT directory."""
    content_type = request.headers.get("content-type")
    if (content_type or "").partition(";")[0].strip().lower() != MULTIPART:
        raise UnsupportedMedia(content_type, MULTIPART)
    async with request.form(max_files=1, max_fields=2) as form:
        name, metadata, file = _fields(form)
        async with _on_disk(file) as path:
            result = await run_in_threadpool(
                services.store.ingest, path, name, metadata, dry_run=dry_run
            )
    body = {**_shown(result.record), "effect": _shown_effect(result.adapter_effect)}
    return JSONResponse(body, status_code=201 if result.created and not dry_run else 200)


@router.get("")
async def list_adapters(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
) -> JSONResponse:
    """Versions by name and number, page by page."""
    if after is not None:
        _check_cursor(after)
    records, cursor = await run_in_threadpool(services.store.list_page, limit, after)
    data = [_shown(record) for record in records]
    return JSONResponse({"object": "list", "data": data, "next_cursor": cursor})


@router.get("/{reference:path}/file")
async def download_adapter(reference: str, services: ServicesDep) -> FileResponse:
    """The adapter as `intarsia-adapter/1`."""
    record = await run_in_threadpool(services.store.resolve, reference)
    filename = f"{record.id.replace('/', '--')}.safetensors"
    path = services.store.blob_path(record.digest)
    headers = {"etag": f'"{record.digest}"'}
    media_type = "application/octet-stream"
    return FileResponse(path, media_type=media_type, filename=filename, headers=headers)


@router.get("/{reference:path}")
async def get_adapter(reference: str, services: ServicesDep) -> JSONResponse:
    """One version: `name` is the latest, `name@3` or `name@sha256:...` a given one."""
    return JSONResponse(_shown(await run_in_threadpool(services.store.resolve, reference)))


@router.delete("/{reference:path}")
async def delete_adapter(reference: str, services: ServicesDep) -> JSONResponse:
    """Remove a version, or all versions of a bare name. Running requests keep theirs to the end."""
    deleted = await run_in_threadpool(services.store.delete, reference)
    return JSONResponse(
        {
            "object": "adapter.deleted",
            "deleted": [record.id for record in deleted.records],
            "bytes_freed": {"disk": deleted.bytes_freed, "device": _discard(deleted, services)},
        }
    )


def _check_cursor(after: str) -> None:
    try:
        is_cursor = parse_reference(after).version is not None
    except InvalidName:
        is_cursor = False
    if not is_cursor:
        raise BadRequest(
            f"after: {shown(after)} is no cursor; take an answer's next_cursor", "after"
        )


def _discard(deleted: DeleteResult, services: Services) -> int:
    digests = {record.digest for record in deleted.records}
    return sum(services.adapters.discard(digest) for digest in digests)


def _fields(form: FormData) -> tuple[str, dict[str, Any], UploadFile]:
    names = [field for field, _ in form.multi_items()]
    for field in names:
        if field not in FORM_FIELDS:
            raise BadRequest(f"unknown form field {field!r}", field)
        if names.count(field) > 1:
            raise BadRequest(f"the form field {field!r} is there twice", field)
    name, file = form.get("name"), form.get("file")
    if not isinstance(name, str):
        raise BadRequest("the form field 'name' is missing or is no text", "name")
    if not isinstance(file, UploadFile):
        raise BadRequest("the form field 'file' is missing or is no file", "file")
    if name.partition("/")[2] in SUBRESOURCES:
        raise BadRequest(f"name: {name!r} would be taken for a route of another adapter", "name")
    return name, _metadata(form.get("metadata")), file


def _metadata(given: UploadFile | str | None) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, str):
        raise BadRequest("metadata must be a field of text, not a file", "metadata")
    try:
        metadata = json.loads(given)
        json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"metadata is not JSON: {error}", "metadata") from error
    if not isinstance(metadata, dict):
        raise BadRequest(f"metadata must be a JSON object, not {shown(metadata)}", "metadata")
    return metadata


@asynccontextmanager
async def _on_disk(file: UploadFile) -> AsyncIterator[Path]:
    """The upload as a file of its own, for as long as it is read."""
    with tempfile.NamedTemporaryFile() as copy:
        await run_in_threadpool(shutil.copyfileobj, file.file, copy)
        copy.flush()
        yield Path(copy.name)


def _shown(record: AdapterRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "adapter",
        "name": record.name,
        "version": record.version,
        "digest": record.digest,
        "base": record.base_name,
        "kinds": list(record.kinds),
        "layers": record.num_layers,
        "nnz": record.nnz,
        "bytes": record.num_bytes,
        "created": record.created,
        "metadata": record.metadata,
    }


def _shown_effect(effect: Effect) -> dict[str, Any]:
    layers = [
        {"layer": e.layer, "kind": e.kind, "nnz": e.nnz, "density": e.density, "norm": e.norm}
        for e in sorted(effect.layers, key=_depth)
    ]
    places = sum(e.nnz / e.density for e in effect.layers)
    density = effect.nnz / places
    return {"layers": layers, "nnz": effect.nnz, "density": density, "norm": effect.norm}


def _depth(effect: LayerEffect) -> list[int | str]:
    """Sorts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in effect.layer.split(".")]

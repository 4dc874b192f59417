"""`/v1/datasets`: rows to evaluate with, uploaded once and named by their id ever after."""

from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from adapters_store.errors import AdapterTooLarge
from adapters_store.evaluation.rows import read_jsonl
from adapters_store.registry.evaluation_errors import DataSetTooLarge
from server.api.multipart import MEDIA_TYPE, FormReader, boundary_of
from server.api.services import ServicesDep
from server.errors import BadRequest, ClientGone, UnsupportedMedia
from server.evaluation.datasets import DataSetRecord, DataSets

JSON_LINES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")
MAX_NAME_CHARS = 200

router = APIRouter(prefix="/v1/datasets")


@router.post("")
async def upload_dataset(
    request: Request, services: ServicesDep, name: str | None = None
) -> JSONResponse:
    """Keep a JSON lines file, as a form's `file` or as the body itself.

    201, or 200 where the same rows are kept already.
    """
    evaluations = services.evaluations
    with services.store.quarantine() as directory:
        path = directory / "rows.jsonl"
        form = await _receive(request, path, evaluations.max_dataset_bytes)
        name = form.get("name", name)
        _check_name(name)
        found, is_new = await run_in_threadpool(_keep, path, name, evaluations.datasets)
    return JSONResponse(dataset_json(found), 201 if is_new else 200)


@router.get("")
async def list_datasets(
    services: ServicesDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> JSONResponse:
    """The newest data sets first."""
    found = await run_in_threadpool(services.evaluations.datasets.newest, limit)
    return JSONResponse({"object": "list", "data": [dataset_json(each) for each in found]})


@router.get("/{dataset_id}")
async def get_dataset(dataset_id: str, services: ServicesDep) -> JSONResponse:
    return JSONResponse(
        dataset_json(await run_in_threadpool(services.evaluations.datasets.find, dataset_id))
    )


@router.delete("/{dataset_id}")
async def delete_dataset(dataset_id: str, services: ServicesDep) -> JSONResponse:
    """Remove a data set that no evaluation is reading; what evaluations found out stays."""
    gone = await run_in_threadpool(services.evaluations.datasets.delete, dataset_id)
    return JSONResponse({"id": gone.id, "object": "dataset", "deleted": True})


def dataset_json(record: DataSetRecord) -> dict[str, Any]:
    """A data set as every route answers it."""
    return {
        "id": record.id,
        "object": "dataset",
        "digest": record.digest,
        "name": record.name,
        "rows": record.num_rows,
        "bytes": record.num_bytes,
        "created": record.created,
    }


def _keep(path: Path, name: str | None, datasets: DataSets) -> tuple[DataSetRecord, bool]:
    with path.open("rb") as file:
        rows = tuple(read_jsonl(file))
    return datasets.add(rows, name)


def _check_name(name: str | None) -> None:
    if name is not None and not (0 < len(name) <= MAX_NAME_CHARS and name.isprintable()):
        raise BadRequest(f"name: must be 1 to {MAX_NAME_CHARS} printable characters", "name")


async def _receive(request: Request, path: Path, max_bytes: int) -> dict[str, str]:
    """Write the rows to `path` as they come; the form's text fields, if it is one."""
    with path.open("xb") as target:
        writer = _writer(request.headers.get("content-type"), target, max_bytes)
        try:
            async for data in request.stream():
                await run_in_threadpool(writer.feed, data)
        except ClientDisconnect as error:
            raise ClientGone from error
        except AdapterTooLarge as error:
            raise DataSetTooLarge(max_bytes) from error
        return writer.finish()


class _Plain:
    """Mutable. A body that is the file itself; to be fed as FormReader is."""

    def __init__(self, target: BinaryIO, max_bytes: int) -> None:
        self._target, self._max_bytes = target, max_bytes
        self._num_bytes = 0

    def feed(self, data: bytes) -> None:
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise DataSetTooLarge(self._max_bytes)
        self._target.write(data)

    def finish(self) -> dict[str, str]:
        return {}


def _writer(content_type: str | None, target: BinaryIO, max_bytes: int) -> FormReader | _Plain:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type in JSON_LINES:
        return _Plain(target, max_bytes)
    if media_type == MEDIA_TYPE:
        return FormReader(boundary_of(content_type), target, {"name"}, max_bytes)
    raise UnsupportedMedia(content_type, " or ".join((MEDIA_TYPE, *JSON_LINES)))

"""`/v1/models`: the base and every adapter, as OpenAI and vLLM list them."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters_store.errors import AdapterNotFound, InvalidName
from adapters_store.registry import AdapterRecord, Latest
from server.api.services import Services, ServicesDep
from server.errors import ModelNotFound

router = APIRouter(prefix="/v1/models")


@router.get("")
async def list_models(services: ServicesDep) -> JSONResponse:
    """The base, then the latest version of every adapter."""
    return await run_in_threadpool(_list, services)


@router.get("/{reference:path}")
async def get_model(reference: str, services: ServicesDep) -> JSONResponse:
    """One model, by any reference that a request's `model` may hold."""
    if reference == services.base_name:
        return JSONResponse(_base(services))
    try:
        record = await run_in_threadpool(services.store.resolve, reference)
    except (AdapterNotFound, InvalidName) as error:
        raise ModelNotFound(reference, "model") from error
    return JSONResponse(_adapter(reference, record, services))


def _list(services: Services) -> JSONResponse:
    """Written to bytes here too: ten thousand adapters are two megabytes."""
    latest = services.store.registry.latest()
    data = [_base(services), *(_adapter(row.name, row, services) for row in latest)]
    return JSONResponse({"object": "list", "data": data})


def _base(services: Services) -> dict[str, Any]:
    return {
        "id": services.base_name,
        "object": "model",
        "created": services.started,
        "owned_by": "intarsia",
        "root": services.base_name,
        "parent": None,
        "max_model_len": services.max_model_len,
    }


def _adapter(name: str, record: AdapterRecord | Latest, services: Services) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(record.created),
        "owned_by": "intarsia",
        "root": record.digest,
        "parent": services.base_name,
        "max_model_len": services.max_model_len,
    }

"""`/v1/adapters`: list, inspect, delete."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters_store.errors import InvalidName
from adapters_store.ingest import DeleteResult
from adapters_store.names import parse_reference
from adapters_store.registry import AdapterRecord, Filter, NameState
from server.api.services import Services, ServicesDep
from server.errors import BadRequest, shown

FilterText = Annotated[str | None, Query(max_length=200)]

router = APIRouter(prefix="/v1/adapters")


@router.get("")
async def list_adapters(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
    name: FilterText = None,
    kind: FilterText = None,
    tag: FilterText = None,
    task: FilterText = None,
    base: FilterText = None,
    q: FilterText = None,
) -> JSONResponse:
    """Versions by name and number, page by page: those that every filter lets through.

    `name` is how names begin; `q` is anywhere in name, task or description, in any case.
    """
    if after is not None:
        _check_cursor(after)
    wanted = Filter(name=name, kind=kind, tag=tag, task=task, base=base, q=q)
    records, cursor = await run_in_threadpool(services.store.list_page, limit, after, wanted)
    data = [record_json(record) for record in records]
    return JSONResponse({"object": "list", "data": data, "next_cursor": cursor})


@router.get("/{reference:path}")
async def get_adapter(reference: str, services: ServicesDep) -> JSONResponse:
    """One version: `name` is the latest; of a split alias the one with the largest share."""
    record = await run_in_threadpool(services.store.resolve, reference)
    state = await run_in_threadpool(services.store.registry.state, record.name)
    aliases = {"aliases": aliases_json(state), "pinned": state.pinned}
    return JSONResponse({**record_json(record), **aliases})


@router.delete("/{reference:path}")
async def delete_adapter(
    reference: str, services: ServicesDep, force: bool = False
) -> JSONResponse:
    """Remove a version, or all versions of a bare name. Running requests keep theirs to the end.

    What an alias points at is in use, so it is kept (409) unless `force` removes the alias too.
    """
    deleted = await run_in_threadpool(services.store.delete, reference, force=force)
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


def record_json(record: AdapterRecord) -> dict[str, Any]:
    """One version as every route answers it."""
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


def aliases_json(state: NameState) -> dict[str, Any]:
    """The aliases of a name: a whole one is its version, a split one has a share for each."""
    return {alias: _target_json(targets) for alias, targets in state.aliases.items()}


def _target_json(targets: Mapping[int, float]) -> int | dict[str, float]:
    if len(targets) == 1:
        return next(iter(targets))
    return {str(version): share for version, share in sorted(targets.items())}

"""`/v1/adapters`: list, inspect, delete."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters_store.errors import AdapterNotFound, InvalidName
from adapters_store.names import parse_reference
from adapters_store.registry import AdapterRecord, Filter, NameState
from server.adapters.composition import prototypes_id
from server.adapters.journals import journal_id
from server.adapters.status import Freed, State
from server.api.services import Services, ServicesDep
from server.errors import BadRequest, shown

DRAIN_S = 30.0  # how long a deletion waits for running requests, unless told
MAX_DRAIN_S = 3600.0

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
    registry = services.store.registry
    records, cursor = await run_in_threadpool(registry.list_page, limit, after, wanted)
    data = [record_json(record) for record in records]
    return JSONResponse({"object": "list", "data": data, "next_cursor": cursor})


@router.get("/{reference:path}")
async def get_adapter(reference: str, services: ServicesDep) -> JSONResponse:
    """One version: `name` is the latest; of a split alias the one with the largest share.

    A deleted one is shown by its id until the last request that uses it has ended.
    """
    try:
        record = await run_in_threadpool(services.store.resolve, reference)
    except AdapterNotFound:
        leaving = services.leaving.get(reference)
        if leaving is None:
            raise
        return JSONResponse({**record_json(leaving), **memory_json(leaving, services)})
    state = await run_in_threadpool(services.store.registry.state, record.name)
    aliases = {"aliases": aliases_json(state), "pinned": state.pinned}
    return JSONResponse({**record_json(record), **aliases, **memory_json(record, services)})


@router.delete("/{reference:path}")
async def delete_adapter(
    reference: str,
    services: ServicesDep,
    force: bool = False,
    wait: Annotated[float, Query(ge=0, le=MAX_DRAIN_S)] = DRAIN_S,
) -> JSONResponse:
    """Remove a version, or all versions of a bare name: names at once, memory when it is unused.

    Running requests keep theirs to the end. Waits at most `wait` seconds for that; where they take
    longer the answer is 202, `draining`, and the rest goes with the last of them. What an alias
    points at is in use, so it is kept (409) unless `force` removes the alias too.
    """
    deleted = await run_in_threadpool(services.store.delete, reference, force=force)
    for name in {record.name for record in deleted.records}:
        await services.pins.keep(name)
    drains = [drain for record in deleted.unused for drain in _drain(record, services)]
    done, pending = await asyncio.wait(drains, timeout=wait) if drains else (set(), set())
    freed = [drain.result() for drain in done]
    body = {
        "object": "adapter.deleted",
        "deleted": [record.id for record in deleted.records],
        "state": (State.DRAINING if pending else State.GONE).value,
        "bytes_freed": {
            "disk": deleted.bytes_freed,
            "host": sum(tiers.host for tiers in freed),
            "device": sum(tiers.device for tiers in freed),
        },
    }
    return JSONResponse(body, status_code=202 if pending else 200)


def _drain(record: AdapterRecord, services: Services) -> "list[asyncio.Future[Freed]]":
    """Let go of what no version needs any more, its prototypes, journal and merges with it.

    The record is shown until the adapter itself is gone.
    """
    services.leaving[record.id] = record
    draining = services.memory.drain(record.digest)
    draining.add_done_callback(lambda _: services.leaving.pop(record.id, None))
    beside = (prototypes_id(record.digest), journal_id(record.digest))
    made = {*beside, *services.merged.forget(record.digest)}
    drains = (draining, *(services.memory.drain(digest) for digest in made))
    return [asyncio.wrap_future(each) for each in drains]


def _check_cursor(after: str) -> None:
    try:
        is_cursor = parse_reference(after).version is not None
    except InvalidName:
        is_cursor = False
    if not is_cursor:
        raise BadRequest(
            f"after: {shown(after)} is no cursor; take an answer's next_cursor", "after"
        )


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


def memory_json(record: AdapterRecord, services: Services) -> dict[str, Any]:
    """Where a version is on this server: its state, who uses it, its bytes in each tier."""
    status = services.memory.status(record.digest)
    in_memory = {"host": status.host_bytes, "device": status.device_bytes}
    return {
        "state": status.state.value,
        "memory": {"requests": status.pins, "waiting": status.waiting, "bytes": in_memory},
    }


def aliases_json(state: NameState) -> dict[str, Any]:
    """The aliases of a name: a whole one is its version, a split one has a share for each."""
    return {alias: _target_json(targets) for alias, targets in state.aliases.items()}


def _target_json(targets: Mapping[int, float]) -> int | dict[str, float]:
    if len(targets) == 1:
        return next(iter(targets))
    return {str(version): share for version, share in sorted(targets.items())}

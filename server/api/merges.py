"""`POST /v1/merges`, `GET /v1/merge-methods`: stored adapters become one more, as a job."""

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters_store.ingest import AdapterStore
from adapters_store.merging.cost import Cost
from adapters_store.merging.merge import LINEAGE
from adapters_store.merging.parameters import described
from adapters_store.merging.recipe import MAX_MEMBERS, Recipe
from adapters_store.merging.table import DEFAULT_METHOD, METHODS, Method
from server.api.adapters import record_json
from server.api.jobs import find_job, job_json
from server.api.recipes import build_recipe, find_adapter
from server.api.routers import ROUTERS
from server.api.services import Services, ServicesDep, require_json
from server.api.stats import effect_json
from server.api.uploads import SUBRESOURCES
from server.errors import BadRequest, JobCancelled, status_of
from server.jobs.merges import KIND, merge_request
from server.jobs.store import JobRecord, JobStore

FIRST_LOOK_S, SLOWEST_LOOK_S = 0.01, 0.5  # between looks at a job that is waited for

router = APIRouter(prefix="/v1")


class Member(BaseModel):
    """One adapter and its weight, which the recipe checks."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str
    weight: float = 1.0


class MergeBody(BaseModel):
    """What to merge, how, and the name of what comes out. `merge` holds the method, its parameters
    and, for methods that draw, a seed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    adapters: list[Member] = Field(min_length=1, max_length=MAX_MEMBERS)
    merge: dict[str, Any] = Field(default_factory=lambda: {"method": DEFAULT_METHOD})
    metadata: dict[str, Any] = Field(default_factory=dict)


@router.get("/merge-methods")
async def list_methods() -> JSONResponse:
    """The table of methods, and of what requests alone may name beside them."""
    data = [_method_json(method) for method in METHODS.values()]
    body = {"object": "list", "data": data, "default": DEFAULT_METHOD, "routers": list(ROUTERS)}
    return JSONResponse(body)


@router.post("/merges", dependencies=[Depends(require_json)])
async def merge_adapters(
    body: MergeBody, services: ServicesDep, wait: bool = False
) -> JSONResponse:
    """Merge into the next version of `name`: 202 and a job, or with `wait` what an upload answers.

    Everything that can be known before is checked before; what it will cost is told.
    """
    if body.name.partition("/")[2] in SUBRESOURCES:
        raise BadRequest(f"name: {body.name!r} would be taken for another adapter's route", "name")
    if LINEAGE in body.metadata:
        raise BadRequest(
            "metadata.lineage: the lineage of a merge is its recipe", "metadata.lineage"
        )
    await run_in_threadpool(services.store.check_request, body.name, body.metadata)
    recipe = await run_in_threadpool(_recipe, body, services.store)
    cost = await run_in_threadpool(services.merger.predict, recipe)
    request = merge_request(body.name, recipe, body.metadata)
    job = await run_in_threadpool(services.jobs.submit, KIND, request)
    if not wait:
        location = {"location": f"/v1/jobs/{job.id}"}
        shown = {**job_json(job), "recipe": recipe.digest, "predicted": cost_json(cost)}
        return JSONResponse(shown, 202, headers=location)
    return await _made(await _ended(services.jobs.store, job), services)


def _recipe(body: MergeBody, store: AdapterStore) -> Recipe:
    """ModelNotFound, or InvalidMerge, each with the field of the body."""
    members = [
        (find_adapter(store, member.id, f"adapters.{index}.id").digest, member.weight)
        for index, member in enumerate(body.adapters)
    ]
    return build_recipe(members, body.merge)


async def _ended(jobs: JobStore, job: JobRecord) -> JobRecord:
    """The job once it has ended. Asks the database, since any replica may do it."""
    pause = FIRST_LOOK_S
    while not job.has_ended:
        await asyncio.sleep(pause)
        pause = min(2 * pause, SLOWEST_LOOK_S)
        job = await find_job(jobs, job.id)
    return job


async def _made(job: JobRecord, services: Services) -> JSONResponse:
    """The new version as an upload answers it, or what went wrong."""
    if job.error is not None:
        return JSONResponse({"error": job.error}, status_of(job.error["code"]))
    if job.result is None:
        raise JobCancelled(job.id)
    record = await run_in_threadpool(services.store.resolve, job.result["id"])
    effect = await run_in_threadpool(services.store.effect, record.digest)
    body = {**record_json(record), "effect": effect_json(effect)}
    return JSONResponse(body, 201 if job.result["created"] else 200)


def _method_json(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "parameters": [described(parameter) for parameter in method.parameters],
        "min_adapters": method.min_members,
        "max_adapters": min(method.max_members, MAX_MEMBERS),
        "takes_seed": method.takes_seed,
        "exactness": method.exactness,
    }


def cost_json(cost: Cost) -> dict[str, Any]:
    """What a merge is predicted to cost."""
    return asdict(cost)

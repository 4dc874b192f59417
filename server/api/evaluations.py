"""`/v1/evaluations`: subjects scored on data sets, as jobs behind all live traffic."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from adapters_store.registry.evaluation_errors import (
    EvaluationNotDone,
    EvaluationNotEnded,
    EvaluationNotFound,
)
from server.api.evaluation_bodies import EvaluationBody
from server.api.evaluation_json import evaluation_json, progress_json, results_csv, rows_json
from server.api.evaluation_plans import make_plan
from server.api.evaluation_rows import Found
from server.api.services import ServicesDep, Stopping, require_json
from server.api.streams import DONE, sse
from server.errors import BadRequest, shown
from server.evaluation.evaluations import Evaluations
from server.evaluation.job import KIND
from server.evaluation.plan import Plan
from server.jobs.store import JobRecord

LOOK_S, HEARTBEAT_S = 0.5, 10.0  # between looks, and between signs of life
CSV = "text/csv"

router = APIRouter(prefix="/v1/evaluations")


@router.post("", dependencies=[Depends(require_json)])
async def begin_evaluation(body: EvaluationBody, services: ServicesDep) -> JSONResponse:
    """Queue an evaluation: 202 and its id. What can be wrong with it is told now, not later."""
    plan, found = await make_plan(body, services)
    job = await run_in_threadpool(_queue, plan, found, services.evaluations)
    shown_job = await run_in_threadpool(_shown, job, services.evaluations)
    return JSONResponse(shown_job, 202, headers={"location": f"/v1/evaluations/{job.id}"})


@router.get("")
async def list_evaluations(
    services: ServicesDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> JSONResponse:
    """The newest first."""
    evaluations = services.evaluations

    def listed() -> list[dict[str, Any]]:
        jobs = evaluations.worker.store.newest(limit, KIND)
        return [_shown(job, evaluations) for job in jobs]

    return JSONResponse({"object": "list", "data": await run_in_threadpool(listed)})


@router.get("/{evaluation_id}")
async def get_evaluation(
    evaluation_id: str,
    request: Request,
    services: ServicesDep,
    format: Literal["json", "csv"] | None = None,
) -> Response:
    """How far it is, and what came of it; as CSV its results alone, once they are there."""
    job = await _find(evaluation_id, services.evaluations)
    accepted = request.headers.get("accept", "").partition(";")[0].strip()
    if format == "csv" or (format is None and accepted == CSV):
        if job.result is None:
            raise EvaluationNotDone(job.id, job.status)
        return Response(results_csv(job.result), media_type=CSV)
    return JSONResponse(await run_in_threadpool(_shown, job, services.evaluations))


@router.get("/{evaluation_id}/rows")
async def list_rows(
    evaluation_id: str,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int, Query(ge=-1, le=2**62)] = -1,
    subject: str | None = None,
    task: str | None = None,
) -> JSONResponse:
    """What subjects made of rows so far, in order of `position`, page by page."""
    job = await _find(evaluation_id, services.evaluations)
    plan = Plan.from_json(job.request)
    subject_index = _index("subject", subject, [each.name for each in plan.subjects])
    task_index = _index("task", task, [each.name for each in plan.tasks])

    def page() -> dict[str, Any]:
        store, datasets = services.evaluations.store, services.evaluations.datasets
        outcomes = store.page(job.id, limit + 1, after, subject_index, task_index)
        data = rows_json(outcomes[:limit], plan, datasets)
        cursor = data[-1]["position"] if len(outcomes) > limit else None
        return {"object": "list", "data": data, "next_cursor": cursor}

    return JSONResponse(await run_in_threadpool(page))


@router.get("/{evaluation_id}/events")
async def stream_events(evaluation_id: str, services: ServicesDep) -> StreamingResponse:
    """Progress as server-sent events, until the evaluation has ended; the last one is all of it.

    A server that stops ends them too, without the last one; its next start goes on.
    """
    job = await _find(evaluation_id, services.evaluations)
    events = _events(job, services.evaluations, services.stopping)
    return StreamingResponse(events, media_type="text/event-stream")


@router.delete("/{evaluation_id}")
async def cancel_evaluation(evaluation_id: str, services: ServicesDep) -> JSONResponse:
    """End an evaluation before its time, its rows in flight too. What it found out stays."""
    evaluations = services.evaluations
    job = await _find(evaluation_id, evaluations)
    await run_in_threadpool(evaluations.worker.store.cancel, job.id)
    job = await _find(evaluation_id, evaluations)
    return JSONResponse(await run_in_threadpool(_shown, job, evaluations))


@router.delete("/{evaluation_id}/rows")
async def forget_rows(evaluation_id: str, services: ServicesDep) -> JSONResponse:
    """Drop what subjects made of rows, of an evaluation that has ended; its results stay."""
    job = await _find(evaluation_id, services.evaluations)
    if not job.has_ended:
        raise EvaluationNotEnded(job.id, job.status)
    await run_in_threadpool(services.evaluations.store.forget, job.id)
    return JSONResponse({"id": job.id, "object": "evaluation.rows", "deleted": True})


def _queue(plan: Plan, found: Sequence[Found], evaluations: Evaluations) -> JobRecord:
    for each in found:
        evaluations.datasets.add(each.rows)
    return evaluations.submit(plan)


async def _find(evaluation_id: str, evaluations: Evaluations) -> JobRecord:
    return await run_in_threadpool(_job, evaluation_id, evaluations)


def _look(evaluation_id: str, evaluations: Evaluations) -> tuple[JobRecord, dict[str, Any]]:
    """The job, and how far it is."""
    job = _job(evaluation_id, evaluations)
    return job, progress_json(job, evaluations.store.progress(job.id))


def _job(evaluation_id: str, evaluations: Evaluations) -> JobRecord:
    job = evaluations.worker.store.find(evaluation_id)
    if job is None or job.kind != KIND:
        raise EvaluationNotFound(evaluation_id)
    return job


def _shown(job: JobRecord, evaluations: Evaluations) -> dict[str, Any]:
    return evaluation_json(job, evaluations.store.progress(job.id))


def _index(field: str, name: str | None, known: list[str]) -> int | None:
    if name is None:
        return None
    if name not in known:
        raise BadRequest(f"{field}: {shown(name)} is none of {', '.join(known)}", field)
    return known.index(name)


async def _events(
    job: JobRecord, evaluations: Evaluations, stopping: Stopping
) -> AsyncIterator[str]:
    """An event for every change but that of time; a comment where there is none for long."""
    told, told_at = None, time.monotonic()
    while not stopping.has_begun:
        job, event = await run_in_threadpool(_look, job.id, evaluations)
        if job.has_ended:
            yield sse(await run_in_threadpool(_shown, job, evaluations))
            yield DONE
            return
        if (changed := (event["status"], event["rows"])) != told:
            told, told_at = changed, time.monotonic()
            yield sse(event)
        elif time.monotonic() - told_at >= HEARTBEAT_S:
            told_at = time.monotonic()
            yield ": still there\n\n"
        await asyncio.sleep(LOOK_S)

"""`/v1/jobs`: how far long work is, and its end before its time."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from server.api.services import ServicesDep
from server.errors import JobNotFound
from server.jobs.store import JobRecord, JobStore

router = APIRouter(prefix="/v1/jobs")


@router.get("")
async def list_jobs(
    services: ServicesDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> JSONResponse:
    """The newest jobs first."""
    found = await run_in_threadpool(services.jobs.store.newest, limit)
    return JSONResponse({"object": "list", "data": [job_json(job) for job in found]})


@router.get("/{job_id}")
async def get_job(job_id: str, services: ServicesDep) -> JSONResponse:
    return JSONResponse(job_json(await find_job(services.jobs.store, job_id)))


@router.delete("/{job_id}")
async def cancel_job(job_id: str, services: ServicesDep) -> JSONResponse:
    """End a job that waits or runs, before its next step; the job as it is then.

    One that has ended stays as it ended.
    """
    await run_in_threadpool(services.jobs.store.cancel, job_id)
    return JSONResponse(job_json(await find_job(services.jobs.store, job_id)))


async def find_job(jobs: JobStore, job_id: str) -> JobRecord:
    """The job; JobNotFound if there is none."""
    job = await run_in_threadpool(jobs.find, job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


def job_json(job: JobRecord) -> dict[str, Any]:
    """A job as every route answers it."""
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "status": job.status,
        "progress": job.progress,
        "request": job.request,
        "result": job.result,
        "error": job.error,
        "created": job.created,
        "updated": job.updated,
    }

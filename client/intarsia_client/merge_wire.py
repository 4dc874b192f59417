"""The calls of `wire` that have to do with merges and jobs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import httpx

from intarsia_client.errors import InvalidArgument
from intarsia_client.jobs import Job, MergeMethod
from intarsia_client.types import Adapter, AdapterWeight, Json
from intarsia_client.wire import Call


def merge(
    name: str,
    members: Sequence[AdapterWeight],
    how: Json | None,
    metadata: Json | None,
) -> Call[Adapter]:
    """Answered when it is done."""
    arguments = {**_merge_arguments(name, members, how, metadata), "params": {"wait": "true"}}
    return Call("POST", "/v1/merges", _adapter, arguments)


def start_merge(
    name: str,
    members: Sequence[AdapterWeight],
    how: Json | None,
    metadata: Json | None,
) -> Call[Job]:
    return Call("POST", "/v1/merges", _job, _merge_arguments(name, members, how, metadata))


def merge_methods() -> Call[tuple[MergeMethod, ...]]:
    return Call("GET", "/v1/merge-methods", _merge_methods, {})


def job(job_id: str) -> Call[Job]:
    return Call("GET", _job_path(job_id), _job, {})


def jobs(limit: int) -> Call[tuple[Job, ...]]:
    return Call("GET", "/v1/jobs", _jobs, {"params": {"limit": limit}})


def cancel(job_id: str) -> Call[Job]:
    return Call("DELETE", _job_path(job_id), _job, {})


def _job_path(job_id: str) -> str:
    if job_id in ("", ".", ".."):
        raise InvalidArgument("job_id", f"{job_id!r} does not name a job")
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _merge_arguments(
    name: str, members: Sequence[AdapterWeight], how: Json | None, metadata: Json | None
) -> dict[str, Any]:
    """What is None is left to the server."""
    given = {"merge": how, "metadata": metadata}
    body = {field: value for field, value in given.items() if value is not None}
    return {"json": {**body, "name": name, "adapters": [asdict(member) for member in members]}}


def _adapter(response: httpx.Response) -> Adapter:
    return Adapter.from_json(response.json())


def _job(response: httpx.Response) -> Job:
    return Job.from_json(response.json())


def _jobs(response: httpx.Response) -> tuple[Job, ...]:
    return tuple(map(Job.from_json, response.json()["data"]))


def _merge_methods(response: httpx.Response) -> tuple[MergeMethod, ...]:
    return tuple(map(MergeMethod.from_json, response.json()["data"]))

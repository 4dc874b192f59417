"""Jobs as rows: every change of one is a transaction, so replicas may share them.

Knows nothing of what jobs do.
"""

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from adapters_store.registry.database import Database
from adapters_store.registry.tables import Job

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Within = Callable[[Session, str], None]  # told the job's id, in the transaction that adds it
ENDED = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job as it stands. `result` is there when it succeeded, `error` when it failed."""

    id: str
    kind: str
    status: Status
    progress: float  # 0 to 1
    request: Mapping[str, Any]
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None  # an error object, as requests are answered
    created: float  # seconds since 1970, UTC
    updated: float

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class JobStore:
    """The jobs of one deployment. Safe for many threads and processes at once."""

    def __init__(self, database: Database) -> None:
        self._reads, self._writes = database.reads, database.writes

    def add(self, kind: str, request: Mapping[str, Any], within: Within | None = None) -> JobRecord:
        """A new job at the end of the queue; `within` adds what belongs to it, or raises."""
        now = time.time()
        row = Job(
            id=f"job-{uuid.uuid4().hex}",
            kind=kind,
            status="queued",
            progress=0.0,
            request=dict(request),
            created=now,
            updated=now,
        )
        with self._writes.begin() as session:
            session.add(row)
            session.flush()
            if within is not None:
                within(session, row.id)
            return _record(row)

    def find(self, job_id: str) -> JobRecord | None:
        """The job with this id; None if there is none."""
        with self._reads.begin() as session:
            row = session.get(Job, job_id)
            return _record(row) if row else None

    def newest(self, limit: int, kind: str | None = None) -> list[JobRecord]:
        """At most `limit` jobs, of one kind if told, the newest first."""
        query = select(Job) if kind is None else select(Job).where(Job.kind == kind)
        with self._reads.begin() as session:
            found = session.scalars(query.order_by(Job.created.desc(), Job.id).limit(limit))
            return [_record(row) for row in found]

    def claim(self, kinds: Collection[str], worker: str) -> JobRecord | None:
        """The oldest queued job of these kinds, now `worker`'s and running; None if none waits."""
        waiting = (Job.status == "queued") & Job.kind.in_(kinds)
        query = select(Job).where(waiting).order_by(Job.created, Job.id).limit(1)
        with self._writes.begin() as session:
            row = session.scalar(query.with_for_update(skip_locked=True))
            if row is None:
                return None
            row.status, row.worker, row.updated = "running", worker, time.time()
            return _record(row)

    def advance(self, job_id: str, progress: float) -> bool:
        """Note how far a running job is; False if it runs no longer, since it was cancelled."""
        return self._change(job_id, ("running",), progress=progress)

    def succeed(self, job_id: str, result: Mapping[str, Any]) -> bool:
        """End a running job with its result; False if it was cancelled before."""
        values = {"status": "succeeded", "progress": 1.0, "result": dict(result)}
        return self._change(job_id, ("running",), **values)

    def fail(self, job_id: str, error: Mapping[str, Any]) -> bool:
        """End a running job with an error object; False if it was cancelled before."""
        return self._change(job_id, ("running",), status="failed", error=dict(error))

    def cancel(self, job_id: str) -> bool:
        """End a job that has not ended; False if it had, or is not there."""
        return self._change(job_id, ("queued", "running"), status="cancelled")

    def requeue(self, job_id: str) -> bool:
        """Let a running job be claimed again, from its beginning."""
        return self._change(job_id, ("running",), status="queued", progress=0.0, worker=None)

    def requeue_of(self, worker: str) -> int:
        """Requeue what `worker` was running when it died; how many."""
        with self._reads.begin() as session:
            mine = (Job.status == "running") & (Job.worker == worker)
            left = list(session.scalars(select(Job.id).where(mine)))
        return sum(self.requeue(job_id) for job_id in left)

    def _change(self, job_id: str, statuses: Collection[str], **values: Any) -> bool:
        """Change a job that has one of `statuses`; whether there was one."""
        where = (Job.id == job_id) & Job.status.in_(statuses)
        with self._writes.begin() as session:
            statement = update(Job).where(where).values(**values, updated=time.time())
            return cast(CursorResult[Any], session.execute(statement)).rowcount == 1


def _record(row: Job) -> JobRecord:
    fields = {name: getattr(row, name) for name in JobRecord.__dataclass_fields__}
    return JobRecord(**fields)

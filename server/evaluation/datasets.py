"""Data sets as they are kept: in the registry's database, found by what they say.

Rows are parsed before they are kept, so that a row in here can be read. Knows nothing of files.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from adapters_store.evaluation.rows import EvalRow, parse_row, rows_digest
from adapters_store.registry.database import Database
from adapters_store.registry.evaluation_errors import DataSetInUse, DataSetNotFound
from adapters_store.registry.evaluation_tables import DataSet, DataSetChunk, EvaluationDataSet
from adapters_store.registry.tables import Job
from server.jobs.store import ENDED

ROWS_AT_ONCE = 256  # in a chunk
ID_CHARS = 24  # of the digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetRecord:
    """One data set, without its rows."""

    id: str
    digest: str  # of what the rows say, in their order
    name: str | None
    num_rows: int
    num_bytes: int  # as they are kept
    created: float  # seconds since 1970, UTC


class DataSets:
    """The data sets of one deployment. Safe for many threads and processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads, self._writes = database.reads, database.writes

    def add(self, rows: Sequence[EvalRow], name: str | None = None) -> tuple[DataSetRecord, bool]:
        """Keep `rows`; the data set that holds them, and whether it is new.

        Equal rows are one data set, which keeps the name that it has.
        """
        digest = rows_digest(rows)
        with self._database.guard(digest) as session:
            known = session.scalar(select(DataSet).where(DataSet.digest == digest))
            if known is not None:
                known.name = known.name or name
                return _record(known), False
            chunks = list(_chunks(rows))
            row = DataSet(
                id=id_of(digest),
                digest=digest,
                name=name,
                num_rows=len(rows),
                num_bytes=sum(len(content) for _, content in chunks),
                created=time.time(),
            )
            session.add(row)
            session.flush()
            for first_row, content in chunks:
                values = {"dataset_id": row.id, "first_row": first_row, "content": content}
                session.execute(insert(DataSetChunk).values(values))
            return _record(row), True

    def find(self, dataset_id: str) -> DataSetRecord:
        """Raises DataSetNotFound."""
        with self._reads.begin() as session:
            return _record(_get(session, dataset_id))

    def newest(self, limit: int) -> list[DataSetRecord]:
        """At most `limit` data sets, the newest first."""
        with self._reads.begin() as session:
            query = select(DataSet).order_by(DataSet.created.desc(), DataSet.id).limit(limit)
            return [_record(row) for row in session.scalars(query)]

    def rows(self, dataset_id: str, wanted: Collection[int] | None = None) -> list[EvalRow]:
        """The rows with the indices `wanted`, or all, in their order. Raises DataSetNotFound."""
        with self._reads.begin() as session:
            _get(session, dataset_id)
            return list(_rows(session, dataset_id, None if wanted is None else set(wanted)))

    def delete(self, dataset_id: str) -> DataSetRecord:
        """Remove a data set. Raises DataSetNotFound; DataSetInUse while an evaluation reads it.

        What ended evaluations found out stays.
        """
        with self._writes.begin() as session:
            row = _get(session, dataset_id, lock=True)
            used = (EvaluationDataSet.dataset_id == dataset_id) & Job.status.not_in(ENDED)
            query = select(Job.id).join(EvaluationDataSet, EvaluationDataSet.job_id == Job.id)
            users = list(session.scalars(query.where(used).order_by(Job.created)))
            if users:
                raise DataSetInUse(dataset_id, users)
            for table in (EvaluationDataSet, DataSetChunk):
                session.execute(delete(table).where(table.dataset_id == dataset_id))
            record = _record(row)
            session.delete(row)
            return record


def id_of(digest: str) -> str:
    """The id of the data set with this digest."""
    return f"data-{digest.partition(':')[2][:ID_CHARS]}"


def use(session: Session, job_id: str, dataset_ids: Iterable[str]) -> None:
    """Note that the job reads these. Raises DataSetNotFound."""
    for dataset_id in sorted(set(dataset_ids)):
        _get(session, dataset_id, lock=True)
        session.add(EvaluationDataSet(job_id=job_id, dataset_id=dataset_id))


def _get(session: Session, dataset_id: str, *, lock: bool = False) -> DataSet:
    query = select(DataSet).where(DataSet.id == dataset_id)
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise DataSetNotFound(dataset_id)
    return row


def _chunks(rows: Sequence[EvalRow]) -> Iterator[tuple[int, bytes]]:
    """(index of the first row, lines) of each chunk."""
    for first in range(0, len(rows), ROWS_AT_ONCE):
        lines = [json.dumps(_fields(row)) for row in rows[first : first + ROWS_AT_ONCE]]
        yield first, "\n".join(lines).encode("ascii")


def _fields(row: EvalRow) -> dict[str, object]:
    fields = {"prompt": row.prompt, "target": row.targets, "choices": row.choices}
    return {name: value for name, value in fields.items() if value}


def _rows(session: Session, dataset_id: str, wanted: set[int] | None) -> Iterator[EvalRow]:
    chunks = select(DataSetChunk).where(DataSetChunk.dataset_id == dataset_id)
    if wanted is not None:
        firsts = {index - index % ROWS_AT_ONCE for index in wanted}
        chunks = chunks.where(DataSetChunk.first_row.in_(firsts))
    for chunk in session.scalars(chunks.order_by(DataSetChunk.first_row)):
        lines = chunk.content.split(b"\n")
        for index, line in enumerate(lines, start=chunk.first_row):
            if wanted is None or index in wanted:
                yield parse_row(json.loads(line), index + 1)


def _record(row: DataSet) -> DataSetRecord:
    fields = {name: getattr(row, name) for name in DataSetRecord.__dataclass_fields__}
    return DataSetRecord(**fields)

"""Names and versions of adapters, in SQL. A version points at a digest and never changes.

Knows nothing of files: a row is written once the bytes that it names are safe.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Engine,
    ForeignKey,
    UniqueConstraint,
    create_engine,
    event,
    select,
    tuple_,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from adapters_store.errors import AdapterNotFound
from adapters_store.names import check_name, parse_reference

BUSY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class AdapterDraft:
    """What is known of an adapter before it has a version."""

    name: str
    digest: str
    base_name: str
    kinds: tuple[str, ...]
    num_layers: int
    nnz: int
    num_bytes: int  # of the file
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AdapterRecord(AdapterDraft):
    """One published version."""

    version: int
    created: float  # seconds since 1970, UTC

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Publication:
    """The version that holds what was published, and whether it is new."""

    record: AdapterRecord
    created: bool


class Registry:
    """The adapters of one deployment. Safe for many threads and processes at once."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        _configure(self._engine)
        writing = self._engine.execution_options(writes=True)
        self._reads = sessionmaker(self._engine)
        self._writes = sessionmaker(writing)
        with writing.begin() as connection:
            _Table.metadata.create_all(connection)

    def publish(self, draft: AdapterDraft) -> Publication:
        """The version of `draft.name` with this digest: the one that exists, or the next one.

        Version numbers of a name grow by one and are never used again, even after deletion.
        """
        check_name(draft.name)
        with self._writes.begin() as session:
            publication = _publication(session, draft)
            if publication.created:
                version = publication.record.version
                session.merge(_Name(name=draft.name, next_version=version + 1))
                session.flush()
                session.add(_Version.of(publication.record))
            return publication

    def preview(self, draft: AdapterDraft) -> Publication:
        """What `publish` would answer now, without publishing."""
        check_name(draft.name)
        with self._reads.begin() as session:
            return _publication(session, draft)

    def resolve(self, reference: str) -> AdapterRecord:
        """The version that `reference` names, the latest of a bare name; else AdapterNotFound."""
        with self._reads.begin() as session:
            return _matching(session, reference)[-1].record

    def list_page(self, limit: int, after: str | None) -> tuple[list[AdapterRecord], str | None]:
        """At most `limit` records by (name, version), and the cursor of the next page if any.

        `after` is None or the cursor that the page before came with.
        """
        query = select(_Version).order_by(_Version.name, _Version.version).limit(limit + 1)
        if after is not None:
            last = parse_reference(after)
            query = query.where(tuple_(_Version.name, _Version.version) > (last.name, last.version))
        with self._reads.begin() as session:
            records = [row.record for row in session.scalars(query)]
        page = records[:limit]
        return page, page[-1].id if len(records) > limit else None

    def delete(self, reference: str) -> list[AdapterRecord]:
        """Remove and answer the version that `reference` names, or all versions of a bare name."""
        with self._writes.begin() as session:
            rows = _matching(session, reference)
            records = [row.record for row in rows]
            for row in rows:
                session.delete(row)
            return records

    def is_digest_used(self, digest: str) -> bool:
        """Whether any version of any name points at `digest`."""
        with self._reads.begin() as session:
            return session.scalar(select(_Version).where(_Version.digest == digest)) is not None

    def close(self) -> None:
        self._engine.dispose()


class _Table(DeclarativeBase):
    pass


class _Name(_Table):
    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(primary_key=True)
    next_version: Mapped[int]


class _Version(_Table):
    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("name", "digest"),)

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(index=True)
    base_name: Mapped[str]
    kinds: Mapped[list[str]] = mapped_column(JSON)
    num_layers: Mapped[int]
    nnz: Mapped[int]
    num_bytes: Mapped[int]
    created: Mapped[float]
    # `metadata` is taken by SQLAlchemy on the class, not in the table.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)

    @classmethod
    def of(cls, record: AdapterRecord) -> "_Version":
        fields = vars(record) | {"kinds": list(record.kinds)}
        metadata = dict(fields.pop("metadata"))
        return cls(**fields, metadata_=metadata)

    @property
    def record(self) -> AdapterRecord:
        return AdapterRecord(
            name=self.name,
            version=self.version,
            digest=self.digest,
            base_name=self.base_name,
            kinds=tuple(self.kinds),
            num_layers=self.num_layers,
            nnz=self.nnz,
            num_bytes=self.num_bytes,
            created=self.created,
            metadata=self.metadata_,
        )


def _publication(session: Session, draft: AdapterDraft) -> Publication:
    same = (_Version.name == draft.name) & (_Version.digest == draft.digest)
    existing = session.scalar(select(_Version).where(same))
    if existing is not None:
        return Publication(existing.record, created=False)
    known = session.get(_Name, draft.name)
    version = known.next_version if known else 1
    record = AdapterRecord(**vars(draft), version=version, created=time.time())
    return Publication(record, created=True)


def _matching(session: Session, reference: str) -> list[_Version]:
    """The versions that `reference` names, oldest first, at least one; else AdapterNotFound."""
    wanted = parse_reference(reference)
    conditions: list[ColumnElement[bool]] = [_Version.name == wanted.name]
    if wanted.version is not None:
        conditions.append(_Version.version == wanted.version)
    if wanted.digest is not None:
        conditions.append(_Version.digest == wanted.digest)
    query = select(_Version).where(*conditions).order_by(_Version.version)
    rows = list(session.scalars(query))
    if not rows:
        raise AdapterNotFound(reference)
    return rows


def _configure(engine: Engine) -> None:
    """SQLite as a shared, durable database: WAL, synchronous, one writer at a time.

    Writing transactions take the write lock at their start. One that read first would fail when
    another wrote in between, instead of waiting for it.
    """

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""The tables as SQLAlchemy maps them. The schema itself is made by `migrations` alone."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from adapters_store.registry.labels import labels_of, search_text
from adapters_store.registry.records import AdapterRecord

# Ordered by code point on either database, whatever its locale, so that cursors mean one thing.
NAME = String().with_variant(String(collation="C"), "postgresql")
COUNT = BigInteger().with_variant(Integer(), "sqlite")


class Table(DeclarativeBase):
    """Base of all; its metadata is what the migrations must arrive at."""


class Name(Table):
    """A name that is or was in use; it outlives its versions, so that numbers are not reused."""

    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    next_version: Mapped[int]
    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())


class Version(Table):
    """One published version."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("name", "digest"),)

    name: Mapped[str] = mapped_column(NAME, ForeignKey("adapters.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(index=True)
    base_name: Mapped[str]
    kinds: Mapped[list[str]] = mapped_column(JSON)
    num_layers: Mapped[int]
    nnz: Mapped[int] = mapped_column(COUNT)
    num_bytes: Mapped[int] = mapped_column(COUNT)
    created: Mapped[float] = mapped_column(Double)
    # `metadata` is taken by SQLAlchemy on the class, not in the table.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)
    search: Mapped[str] = mapped_column(Text, server_default="")

    @classmethod
    def of(cls, record: AdapterRecord) -> "Version":
        fields = vars(record) | {"kinds": list(record.kinds)}
        metadata = dict(fields.pop("metadata"))
        return cls(**fields, metadata_=metadata, search=search_text(record.name, metadata))

    @property
    def labels(self) -> list[dict[str, Any]]:
        """What this version is found by: rows of Label, too many to be mapped one by one."""
        found = labels_of(self.base_name, self.kinds, self.metadata_, self.search)
        here = {"name": self.name, "version": self.version}
        return [{"key": key, "value": value, **here} for key, value in sorted(found)]

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


class AliasChange(Table):
    """One change of an alias, kept for ever; `before_id` is what a rollback returns to."""

    __tablename__ = "alias_changes"
    __table_args__ = (Index("ix_alias_changes_name_alias", "name", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(NAME, ForeignKey("adapters.name"))
    alias: Mapped[str] = mapped_column(NAME)
    targets: Mapped[list[tuple[int, float]]] = mapped_column(JSON)  # empty: removed
    changed: Mapped[float] = mapped_column(Double)  # seconds since 1970, UTC
    before_id: Mapped[int | None] = mapped_column(ForeignKey("alias_changes.id"))


class Alias(Table):
    """The change that an alias stands at."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(NAME, ForeignKey("adapters.name"), primary_key=True)
    alias: Mapped[str] = mapped_column(NAME, primary_key=True)
    change_id: Mapped[int] = mapped_column(ForeignKey("alias_changes.id"))


class Label(Table):
    """That a version is found by (key, value); in the order in which pages are read."""

    __tablename__ = "labels"
    __table_args__ = (
        ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], ondelete="CASCADE"
        ),
        Index("ix_labels_name_version", "name", "version"),
        {"sqlite_with_rowid": False},
    )

    key: Mapped[str] = mapped_column(NAME, primary_key=True)
    value: Mapped[str] = mapped_column(NAME, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)


class Job(Table):
    """One job as it stands; what its request and result hold is for its kind to say."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_created", "status", "created"),
        Index("ix_jobs_created", "created"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    status: Mapped[str]
    progress: Mapped[float] = mapped_column(Double)  # 0 to 1
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    worker: Mapped[str | None]  # who runs it
    created: Mapped[float] = mapped_column(Double)  # seconds since 1970, UTC
    updated: Mapped[float] = mapped_column(Double)

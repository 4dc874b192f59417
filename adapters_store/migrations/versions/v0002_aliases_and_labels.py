"""Aliases with their history, pins, and the labels by which adapters are filtered and searched."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from adapters_store.registry.labels import labels_of, search_text

revision = "0002"
down_revision = "0001"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
FIELDS = ("name", "version", "base_name", "kinds", "metadata")
LABEL = ("key", "value", "name", "version")
BATCH = 200


def upgrade() -> None:
    off, empty = sa.false(), ""
    op.add_column("adapters", sa.Column("pinned", sa.Boolean(), nullable=False, server_default=off))
    op.add_column("versions", sa.Column("search", sa.Text(), nullable=False, server_default=empty))
    _create_aliases()
    _create_labels()
    _label_what_is_there()


def _create_aliases() -> None:
    op.create_table(
        "alias_changes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", NAME, sa.ForeignKey("adapters.name"), nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.Column("before_id", sa.Integer(), sa.ForeignKey("alias_changes.id"), nullable=True),
    )
    op.create_index("ix_alias_changes_name_alias", "alias_changes", ["name", "alias"])
    op.create_table(
        "aliases",
        sa.Column("name", NAME, sa.ForeignKey("adapters.name"), primary_key=True),
        sa.Column("alias", NAME, primary_key=True),
        sa.Column("change_id", sa.Integer(), sa.ForeignKey("alias_changes.id"), nullable=False),
    )


def _create_labels() -> None:
    op.create_table(
        "labels",
        sa.Column("key", NAME, primary_key=True),
        sa.Column("value", NAME, primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_labels_name_version", "labels", ["name", "version"])


def _label_what_is_there() -> None:
    versions = sa.table(
        "versions",
        *(sa.column(field, sa.String()) for field in ("name", "base_name", "search")),
        *(sa.column(field, sa.JSON()) for field in ("kinds", "metadata")),
        sa.column("version", sa.Integer()),
    )
    labels = sa.table("labels", *(sa.column(field) for field in LABEL))
    connection = op.get_bind()
    rows = connection.execute(sa.select(*(versions.c[field] for field in FIELDS))).all()
    for name, version, base_name, kinds, metadata in rows:
        text = search_text(name, metadata)
        here = (versions.c.name == name) & (versions.c.version == version)
        connection.execute(sa.update(versions).where(here).values(search=text))
        for batch in _batches(sorted(labels_of(base_name, kinds, metadata, text))):
            values = [
                {"key": key, "value": value, "name": name, "version": version}
                for key, value in batch
            ]
            connection.execute(sa.insert(labels), values)


def _batches(pairs: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(pairs), BATCH):
        yield pairs[start : start + BATCH]

"""Names and versions. Databases from before there were migrations hold these tables already."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "adapters",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("next_version", sa.Integer(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "versions",
        sa.Column("name", NAME, sa.ForeignKey("adapters.name"), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("base_name", sa.String(), nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("num_layers", sa.Integer(), nullable=False),
        sa.Column("nnz", COUNT, nullable=False),
        sa.Column("num_bytes", COUNT, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.UniqueConstraint("name", "digest"),
        if_not_exists=True,
    )
    op.create_index("ix_versions_digest", "versions", ["digest"], if_not_exists=True)

"""Data sets, and evaluations with what every subject made of every row."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_datasets()
    _create_evaluations()


def _create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False, unique=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("num_rows", sa.Integer(), nullable=False),
        sa.Column("num_bytes", COUNT, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
    )
    op.create_index("ix_datasets_created", "datasets", ["created"])
    op.create_table(
        "dataset_chunks",
        sa.Column("dataset_id", sa.String(), _dataset(), primary_key=True),
        sa.Column("first_row", sa.Integer(), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )


def _create_evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("job_id", sa.String(), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("num_rows", sa.Integer(), nullable=False),
        sa.Column("num_done", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("decision", sa.JSON(), nullable=True),
    )
    op.create_table(
        "evaluation_datasets",
        sa.Column("job_id", sa.String(), _evaluation(), primary_key=True),
        sa.Column("dataset_id", sa.String(), _dataset(), primary_key=True),
    )
    op.create_index("ix_evaluation_datasets_dataset_id", "evaluation_datasets", ["dataset_id"])
    op.create_table(
        "evaluation_rows",
        sa.Column("job_id", sa.String(), _evaluation(), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("subject", sa.Integer(), nullable=False),
        sa.Column("task", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
    )


def _dataset() -> sa.ForeignKey:
    return sa.ForeignKey("datasets.id", ondelete="CASCADE")


def _evaluation() -> sa.ForeignKey:
    return sa.ForeignKey("evaluations.job_id")

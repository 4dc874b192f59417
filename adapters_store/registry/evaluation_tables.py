"""Data sets and evaluations as SQLAlchemy maps them. The schema is made by `migrations` alone."""

from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from adapters_store.registry.tables import COUNT, Table


class DataSet(Table):
    """One data set; its rows are in chunks. Equal content is one data set."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str | None] = mapped_column(Text)
    num_rows: Mapped[int]
    num_bytes: Mapped[int] = mapped_column(COUNT)
    created: Mapped[float] = mapped_column(Double, index=True)  # seconds since 1970, UTC


class DataSetChunk(Table):
    """Consecutive rows of a data set: lines of canonical JSON, the first of them `first_row`."""

    __tablename__ = "dataset_chunks"

    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True
    )
    first_row: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Evaluation(Table):
    """How far an evaluation is. What it is to do is its job's request."""

    __tablename__ = "evaluations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    num_rows: Mapped[int]  # of all subjects and data sets
    num_done: Mapped[int]
    seconds: Mapped[float] = mapped_column(Double)  # that the rows done took, over all restarts
    decision: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class EvaluationDataSet(Table):
    """That an evaluation reads a data set."""

    __tablename__ = "evaluation_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("evaluations.job_id"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class EvaluationRow(Table):
    """What one subject made of one row, at its place in the evaluation's order of work."""

    __tablename__ = "evaluation_rows"

    job_id: Mapped[str] = mapped_column(ForeignKey("evaluations.job_id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[int]  # index of the request's subjects
    task: Mapped[int]  # index of its data sets
    row: Mapped[int]  # index in the data set
    # JSON, since PostgreSQL's texts hold no NUL, which a model may write.
    evidence: Mapped[dict[str, Any]] = mapped_column(JSON)
    scores: Mapped[dict[str, Any]] = mapped_column(JSON)  # by metric

"""Evaluations as rows: how far each is, what its subjects made of every row, how a gate decided.

Every change is a transaction, so replicas may share them. Knows nothing of how rows are asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from adapters_store.errors import AdapterNotFound
from adapters_store.evaluation.gate import Decision
from adapters_store.registry import aliases
from adapters_store.registry.database import Database, lock_name
from adapters_store.registry.evaluation_errors import EvaluationNotFound
from adapters_store.registry.evaluation_tables import Evaluation, EvaluationRow
from adapters_store.registry.records import Targets
from adapters_store.registry.tables import Job
from server.evaluation.datasets import use
from server.evaluation.plan import Place, Plan, Promotion


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one subject made of one row: what was found out, and (value, weight) by metric."""

    place: Place
    evidence: Mapping[str, Any]
    scores: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an evaluation is; `decision` is there once its gate has decided."""

    num_rows: int
    num_done: int
    seconds: float  # that these took, over all restarts
    decision: Mapping[str, Any] | None

    @property
    def rows_per_second(self) -> float | None:
        """So far; None before anything is known."""
        return self.num_done / self.seconds if self.num_done and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """An estimate, as if it went on as it went so far."""
        rate = self.rows_per_second
        return None if rate is None else (self.num_rows - self.num_done) / rate


class EvaluationStore:
    """The evaluations of one deployment. Safe for many threads and processes at once."""

    def __init__(self, database: Database) -> None:
        self._reads, self._writes = database.reads, database.writes

    def begin(self, session: Session, job_id: str, plan: Plan) -> None:
        """Add what belongs to a new job. Raises DataSetNotFound."""
        row = Evaluation(job_id=job_id, num_rows=plan.num_rows, num_done=0, seconds=0.0)
        session.add(row)
        session.flush()
        use(session, job_id, (task.dataset for task in plan.tasks))

    def progress(self, job_id: str) -> Progress:
        """Raises EvaluationNotFound."""
        with self._reads.begin() as session:
            row = session.get(Evaluation, job_id)
            if row is None:
                raise EvaluationNotFound(job_id)
            return Progress(
                num_rows=row.num_rows,
                num_done=row.num_done,
                seconds=row.seconds,
                decision=row.decision,
            )

    def add(self, job_id: str, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Keep a batch of outcomes, which took `seconds`; each place at most once.

        Nothing is kept of an evaluation that was cancelled: its rows may have been dropped.
        """
        with self._writes.begin() as session:
            row = session.get_one(Evaluation, job_id, with_for_update=True)
            if not _runs(session, job_id):
                return
            row.num_done += len(outcomes)
            row.seconds += seconds
            if outcomes:
                session.execute(insert(EvaluationRow), [_values(job_id, one) for one in outcomes])

    def positions(self, job_id: str) -> frozenset[int]:
        """The places that are done."""
        with self._reads.begin() as session:
            query = select(EvaluationRow.position).where(EvaluationRow.job_id == job_id)
            return frozenset(session.scalars(query))

    def scores(self, job_id: str) -> Iterable[tuple[Place, Mapping[str, Any]]]:
        """The scores of all places that are done, in their order."""
        row = EvaluationRow
        columns = (row.position, row.subject, row.task, row.row, row.scores)
        query = select(*columns).where(row.job_id == job_id).order_by(row.position)
        with self._reads.begin() as session:
            for position, subject, task, index, scores in session.execute(query):
                yield Place(position, subject, task, index), scores

    def page(
        self,
        job_id: str,
        limit: int,
        after: int,
        subject: int | None = None,
        task: int | None = None,
    ) -> list[Outcome]:
        """At most `limit` outcomes behind the position `after`, in order of position."""
        row = EvaluationRow
        query = select(row).where(row.job_id == job_id, row.position > after)
        for column, wanted in ((row.subject, subject), (row.task, task)):
            query = query if wanted is None else query.where(column == wanted)
        with self._reads.begin() as session:
            found = session.scalars(query.order_by(row.position).limit(limit))
            return [_outcome(each) for each in found]

    def forget(self, job_id: str) -> None:
        """Drop what was found out by an evaluation; its job stays."""
        with self._writes.begin() as session:
            session.execute(delete(EvaluationRow).where(EvaluationRow.job_id == job_id))

    def settle(self, job_id: str, promotion: Promotion, decision: Decision) -> dict[str, Any]:
        """Record the gate's decision, and move the alias if it is met: both or neither.

        The alias moves only if it stands where it stood when the evaluation was taken in, and
        while the job still runs. A decision that was recorded before stands.
        """
        with self._writes.begin() as session:
            lock_name(session, promotion.name)
            row = session.get_one(Evaluation, job_id, with_for_update=True)
            if row.decision is None:
                row.decision = _settled(session, job_id, promotion, decision)
            return dict(row.decision)


def _settled(
    session: Session, job_id: str, promotion: Promotion, decision: Decision
) -> dict[str, Any]:
    stands = _standing(session, promotion)
    obstacle = _obstacle(session, job_id, promotion, stands) if decision.promoted else None
    if decision.promoted and obstacle is None:
        try:
            aliases.point(session, promotion.name, promotion.alias, {promotion.version: 1.0})
        except AdapterNotFound as error:
            obstacle = f"the version is there no more: {error}"
    return {
        "promoted": decision.promoted and obstacle is None,
        "passed": decision.promoted,
        "alias": f"{promotion.name}@{promotion.alias}",
        "subject": promotion.subject,
        "version": promotion.version,
        "from": _shares(promotion.stood),
        "found": _shares(stands),
        "reasons": [*decision.reasons, *([obstacle] if obstacle else [])],
        "evidence": dict(decision.evidence),
    }


def _obstacle(
    session: Session, job_id: str, promotion: Promotion, stands: Targets | None
) -> str | None:
    """Why the alias may not move although the bar is met."""
    if not _runs(session, job_id):
        return "the evaluation was cancelled"
    if stands != promotion.stood:
        return (
            "the alias was changed meanwhile: it stood at "
            f"{_shares(promotion.stood)} and stands at {_shares(stands)}"
        )
    return None


def _runs(session: Session, job_id: str) -> bool:
    return session.scalar(select(Job.status).where(Job.id == job_id)) == "running"


def _standing(session: Session, promotion: Promotion) -> Targets | None:
    try:
        return aliases.targets_of(session, promotion.name, promotion.alias)
    except AdapterNotFound:
        return None


def _shares(targets: Targets | None) -> dict[str, float] | None:
    return None if targets is None else {str(version): w for version, w in targets.items()}


def _values(job_id: str, outcome: Outcome) -> dict[str, Any]:
    scores = {metric: list(score) for metric, score in outcome.scores.items()}
    return {
        "job_id": job_id,
        **outcome.place._asdict(),
        "evidence": dict(outcome.evidence),
        "scores": scores,
    }


def _outcome(row: EvaluationRow) -> Outcome:
    return Outcome(Place(row.position, row.subject, row.task, row.row), row.evidence, row.scores)

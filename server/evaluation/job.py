"""Jobs of the kind `evaluation`: every row asked and kept, then summed up, then decided on.

The handler runs an event loop of its own in the thread of its worker, so that merges and requests
never wait for it. A job that is done again goes on where it stopped.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapters_store.evaluation.gate import decide
from adapters_store.evaluation.resampling import Bootstrap
from adapters_store.evaluation.scores import Score, Scoreboard
from adapters_store.evaluation.summary import summarize
from adapters_store.registry.evaluation_errors import BaseChanged
from server.evaluation.asking import RowReader
from server.evaluation.datasets import DataSets
from server.evaluation.engine_room import EngineRoom
from server.evaluation.plan import Plan
from server.evaluation.run import Run
from server.evaluation.store import EvaluationStore
from server.jobs.store import JobRecord
from server.jobs.worker import Advance
from server.metrics import EvaluationCounts

KIND = "evaluation"


@dataclass(frozen=True, slots=True)
class EvaluationJobs:
    """The handler."""

    store: EvaluationStore
    datasets: DataSets
    reader: Callable[[Plan], RowReader]
    room: Callable[[], EngineRoom]  # a new one for every go at a job
    base: Mapping[str, str]  # name and digest of what is served here
    published: Callable[[str], None]  # hears of every name whose alias moved
    counts: EvaluationCounts

    def __call__(self, job: JobRecord, advance: Advance) -> dict[str, Any]:
        """Results, comparisons and the gate's decision. Raises BaseChanged, SubjectGone."""
        plan = Plan.from_json(job.request)
        if plan.base["digest"] != self.base["digest"]:
            raise BaseChanged(plan.base["name"], self.base["name"])
        run = Run(job.id, plan, self.store, self.datasets, self.reader(plan), self.counts, advance)
        asyncio.run(run.ask_all(self.room))
        board = _board(self.store, job.id, plan)
        bootstrap = Bootstrap(plan.confidence, seed=plan.seed)
        summary = summarize(board, plan.table, plan.reference, bootstrap)
        return {**summary.to_json(), "promotion": self._decide(job.id, plan, board)}

    def _decide(self, job_id: str, plan: Plan, board: Scoreboard) -> dict[str, Any] | None:
        promotion = plan.promotion
        if promotion is None:
            return None
        decision = decide(promotion.gate, promotion.subject, board, plan.seed)
        settled = self.store.settle(job_id, promotion, decision)
        if settled["promoted"]:
            self.published(promotion.name)
        return settled


def _board(store: EvaluationStore, job_id: str, plan: Plan) -> Scoreboard:
    scores: dict[str, dict[str, dict[str, list[Score]]]] = {
        subject.name: {task.name: {name: [] for name in plan.metrics} for task in plan.tasks}
        for subject in plan.subjects
    }
    for place, found in store.scores(job_id):
        of_task = scores[plan.subjects[place.subject].name][plan.tasks[place.task].name]
        for metric, score in found.items():
            of_task[metric].append(Score(*score))
    return Scoreboard({task.name: len(task.rows) for task in plan.tasks}, scores)

"""What the routes of evaluations work with: jobs, data sets, and how rows are read here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from server.evaluation.asking import RowReader
from server.evaluation.datasets import DataSets
from server.evaluation.job import KIND
from server.evaluation.plan import Plan
from server.evaluation.store import EvaluationStore
from server.jobs.store import JobRecord
from server.jobs.worker import JobWorker


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Built once by the composition root."""

    worker: JobWorker  # does nothing else, so that merges do not wait for evaluations
    store: EvaluationStore
    datasets: DataSets
    reader: Callable[[Plan], RowReader]
    base: Mapping[str, str]  # name and digest of what is served here
    tasks: Path  # of the built-in tasks that were built
    max_dataset_bytes: int

    def submit(self, plan: Plan) -> JobRecord:
        """Queue an evaluation whose rows were checked. Raises DataSetNotFound."""
        return self.worker.submit(
            KIND, plan.to_json(), lambda session, job: self.store.begin(session, job, plan)
        )

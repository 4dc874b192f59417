"""What can go wrong with data sets and evaluations as they are kept, as types that hold their data.

What is wrong with a row, a metric or a bar is in `adapters_store.evaluation.errors`.
"""

import reprlib
from collections.abc import Sequence

from adapters_store.errors import StoreError


class DataSetNotFound(StoreError):
    """No data set has the id `dataset`."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        super().__init__(f"The data set {reprlib.repr(dataset)} does not exist.")


class DataSetInUse(StoreError):
    """The evaluations `jobs`, which have not ended, read the data set."""

    def __init__(self, dataset: str, jobs: Sequence[str]) -> None:
        self.dataset, self.jobs = dataset, tuple(jobs)
        super().__init__(f"{dataset} is read by {', '.join(jobs)}; cancel or await them first")


class DataSetTooLarge(StoreError):
    """A data set has more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the data set has more than {limit:,} bytes")


class TaskNotBuilt(StoreError):
    """The rows of the built-in task are not there; `command` makes them."""

    def __init__(self, task: str, command: str) -> None:
        self.task, self.command = task, command
        super().__init__(f"the task {reprlib.repr(task)} is not built here; `{command}` makes it")


class EvaluationNotFound(StoreError):
    """No evaluation has the id `evaluation`."""

    def __init__(self, evaluation: str) -> None:
        self.evaluation = evaluation
        super().__init__(f"The evaluation {reprlib.repr(evaluation)} does not exist.")


class EvaluationNotDone(StoreError):
    """The results of `evaluation` are not there: it is `status`."""

    def __init__(self, evaluation: str, status: str) -> None:
        self.evaluation, self.status = evaluation, status
        super().__init__(f"{evaluation} has no results: it is {status}")


class EvaluationNotEnded(StoreError):
    """The rows of `evaluation` are still being made: it is `status`."""

    def __init__(self, evaluation: str, status: str) -> None:
        self.evaluation, self.status = evaluation, status
        super().__init__(f"{evaluation} is {status}; cancel or await it first")


class SubjectGone(StoreError):
    """What `subject` needs was deleted while the evaluation waited or ran."""

    def __init__(self, subject: str, reason: str) -> None:
        self.subject, self.reason = subject, reason
        super().__init__(f"the subject {subject} was deleted: {reason}")


class BaseChanged(StoreError):
    """The evaluation was asked of the base `asked`, and this server has `found`."""

    def __init__(self, asked: str, found: str) -> None:
        self.asked, self.found = asked, found
        super().__init__(f"the evaluation was asked of another base, {asked}; here is {found}")

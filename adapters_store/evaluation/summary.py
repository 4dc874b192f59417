"""An evaluation's results: every subject on every task, over all tasks, and against one of them.

What is not complete is left out, never estimated from less. Knows no files and no reports.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from adapters_store.evaluation.errors import ScoresRefused
from adapters_store.evaluation.metrics import Metric
from adapters_store.evaluation.scores import Scoreboard
from adapters_store.evaluation.statistics import (
    Bootstrap,
    Comparison,
    Interval,
    compare,
    interval,
)

BASE = "base"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """A subject on a task; `task` None: the unweighted mean over all tasks."""

    subject: str
    task: str | None
    metrics: Mapping[str, Interval]
    n: int


@dataclass(frozen=True, slots=True)
class Compared:
    """A subject against the `reference` on the same rows of a task; None: over all tasks."""

    subject: str
    reference: str
    task: str | None
    metrics: Mapping[str, Comparison]
    n: int


@dataclass(frozen=True, slots=True)
class Summary:
    results: tuple[Result, ...]
    overall: tuple[Result, ...]
    comparisons: tuple[Compared, ...]

    def to_json(self) -> dict[str, Any]:
        """Lists of objects; `n` stands beside the metrics, not in each."""
        return {
            "results": [_flat(each) for each in self.results],
            "overall": [_flat(each) for each in self.overall],
            "comparisons": [_flat(each) for each in self.comparisons],
        }


def summarize(
    board: Scoreboard,
    metrics: Sequence[Metric],
    reference: str | None = BASE,
    bootstrap: Bootstrap | None = None,
) -> Summary:
    """The summary in the order of subjects and then of tasks; `reference` None: no comparisons.

    Raises ScoresRefused where the reference is no subject.
    """
    if reference is not None and reference not in board.scores:
        raise ScoresRefused(f"there is no subject {reference!r} to compare with")
    view = _View(board, metrics, bootstrap or Bootstrap())
    subjects, tasks = list(board.scores), board.tasks()
    return Summary(
        results=_found(view.result(subject, task) for subject in subjects for task in tasks),
        overall=_found(view.result(subject, None) for subject in subjects),
        comparisons=_found(
            view.compared(subject, reference, task)
            for subject in subjects
            if reference is not None and subject != reference
            for task in (None, *tasks)
        ),
    )


@dataclass(frozen=True, slots=True)
class _View:
    board: Scoreboard
    metrics: Sequence[Metric]
    bootstrap: Bootstrap

    def result(self, subject: str, task: str | None) -> Result | None:
        """None where no metric has all its scores."""
        found = {
            metric.name: interval(samples, metric.scale, self.bootstrap)
            for metric in self.metrics
            if (samples := self.board.samples(subject, metric.name, task))
        }
        return Result(subject, task, found, self._num_rows(task)) if found else None

    def compared(self, subject: str, reference: str, task: str | None) -> Compared | None:
        """None where no metric has all its scores of both."""
        found = {
            metric.name: compare(a, b, metric.scale, self.bootstrap)
            for metric in self.metrics
            if (a := self.board.samples(subject, metric.name, task))
            and (b := self.board.samples(reference, metric.name, task))
        }
        if not found:
            return None
        return Compared(subject, reference, task, found, self._num_rows(task))

    def _num_rows(self, task: str | None) -> int:
        return sum(self.board.num_rows[each] for each in self.board.tasks(task))


def _found(results: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(each for each in results if each is not None)


def _flat(each: Result | Compared) -> dict[str, Any]:
    fields = asdict(each)
    for metric in fields["metrics"].values():
        del metric["n"]
    return fields

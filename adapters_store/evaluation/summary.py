"""An evaluation's results: every subject on every task, over all tasks, and against one of them.

What is not complete is left out, never estimated from less. Knows no files and no reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    drawn = bootstrap or Bootstrap()
    others = [] if reference is None else [each for each in board.scores if each != reference]
    return Summary(
        results=tuple(
            found
            for subject in board.scores
            for task in board.tasks()
            if (found := _result(board, subject, task, metrics, drawn))
        ),
        overall=tuple(
            found
            for subject in board.scores
            if (found := _result(board, subject, None, metrics, drawn))
        ),
        comparisons=tuple(
            found
            for subject in others
            for task in (None, *board.tasks())
            if (found := _compared(board, subject, str(reference), task, metrics, drawn))
        ),
    )


def _result(
    board: Scoreboard,
    subject: str,
    task: str | None,
    metrics: Sequence[Metric],
    bootstrap: Bootstrap,
) -> Result | None:
    found = {
        metric.name: interval(samples, metric.scale, bootstrap)
        for metric in metrics
        if (samples := board.samples(subject, metric.name, board.tasks(task)))
    }
    return Result(subject, task, found, next(iter(found.values())).n) if found else None


def _compared(
    board: Scoreboard,
    subject: str,
    reference: str,
    task: str | None,
    metrics: Sequence[Metric],
    bootstrap: Bootstrap,
) -> Compared | None:
    tasks, found = board.tasks(task), {}
    for metric in metrics:
        a = board.samples(subject, metric.name, tasks)
        b = board.samples(reference, metric.name, tasks)
        if a and b:
            found[metric.name] = compare(a, b, metric.scale, bootstrap)
    if not found:
        return None
    return Compared(subject, reference, task, found, next(iter(found.values())).n)


def _flat(each: Result | Compared) -> dict[str, Any]:
    fields = asdict(each)
    for metric in fields["metrics"].values():
        del metric["n"]
    return fields

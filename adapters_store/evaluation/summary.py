"""An evaluation's results: every subject on every task, over all tasks, and against one of them.

What is not complete is left out, never estimated from less. Knows no files and no reports.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from adapters_store.evaluation.draws import Draws
from adapters_store.evaluation.errors import ScoresRefused
from adapters_store.evaluation.metrics import Metric
from adapters_store.evaluation.resampling import Bootstrap
from adapters_store.evaluation.scores import Scoreboard
from adapters_store.evaluation.statistics import Comparison, Interval

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
    subjects = list(board.scores)
    draws = Draws.of(board, subjects, metrics, bootstrap or Bootstrap())
    names = [metric.name for metric in metrics]
    return Summary(
        results=_found(
            _result(draws, each, task, names) for each in subjects for task in draws.tasks
        ),
        overall=_found(_result(draws, each, None, names) for each in subjects),
        comparisons=_found(
            _compared(draws, each, reference, task, names)
            for each in subjects
            if reference is not None and each != reference
            for task in (None, *draws.tasks)
        ),
    )


def _result(draws: Draws, subject: str, task: str | None, metrics: Sequence[str]) -> Result | None:
    every = {name: draws.interval(subject, name, task) for name in metrics}
    found = {name: interval for name, interval in every.items() if interval}
    return Result(subject, task, found, _num_rows(found)) if found else None


def _compared(
    draws: Draws, subject: str, reference: str, task: str | None, metrics: Sequence[str]
) -> Compared | None:
    every = {name: draws.comparison(subject, reference, name, task) for name in metrics}
    found = {name: comparison for name, comparison in every.items() if comparison}
    return Compared(subject, reference, task, found, _num_rows(found)) if found else None


def _num_rows(found: Mapping[str, Interval] | Mapping[str, Comparison]) -> int:
    return next(each.n for each in found.values())


def _found(results: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(each for each in results if each is not None)


def _flat(each: Result | Compared) -> dict[str, Any]:
    fields = asdict(each)
    for metric in fields["metrics"].values():
        del metric["n"]
    return fields

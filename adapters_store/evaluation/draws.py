"""A whole evaluation's scores drawn again, once for all that is asked of them.

Answers None where scores are not complete: nothing is estimated from less. Knows no files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from adapters_store.evaluation.metrics import Metric
from adapters_store.evaluation.resampling import Bootstrap, Drawn, draw, pair
from adapters_store.evaluation.scores import Scoreboard
from adapters_store.evaluation.statistics import Comparison, Interval, compare, interval


@dataclass(frozen=True, slots=True)
class Draws:
    """Complete cells by (subject, task, metric)."""

    tasks: Sequence[str]  # all of the evaluation's, in the order of their names
    bootstrap: Bootstrap
    cells: Mapping[tuple[str, str, str], Drawn]

    @classmethod
    def of(
        cls,
        board: Scoreboard,
        subjects: Collection[str],
        metrics: Collection[Metric],
        bootstrap: Bootstrap,
    ) -> "Draws":
        """Raises ScoresRefused where a score is not a number."""
        tasks = sorted(board.num_rows)
        cells: dict[tuple[str, str, str], Drawn] = {}
        for stratum, task in enumerate(tasks):
            samples = {
                (subject, task, metric.name): (sample, metric.scale)
                for subject in sorted(subjects)  # so that their order changes no bit
                for metric in metrics
                if (sample := board.sample(subject, task, metric.name))
            }
            drawn = draw(list(samples.values()), bootstrap, stratum)
            cells |= dict(zip(samples, drawn, strict=True))
        return cls(tasks, bootstrap, cells)

    def interval(self, subject: str, metric: str, task: str | None) -> Interval | None:
        """Of one task; `task` None: over all."""
        drawn = self._drawn(subject, metric, task)
        return interval(drawn, self.bootstrap.tail) if drawn else None

    def comparison(self, a: str, b: str, metric: str, task: str | None) -> Comparison | None:
        """a against b on one task; `task` None: over all."""
        of_a, of_b = self._drawn(a, metric, task), self._drawn(b, metric, task)
        if of_a is None or of_b is None:
            return None
        pairs = [
            pair(one, other, self.bootstrap, stratum)
            for stratum, (one, other) in enumerate(zip(of_a, of_b, strict=True))
        ]
        return compare(pairs, self.bootstrap.tail)

    def _drawn(self, subject: str, metric: str, task: str | None) -> list[Drawn] | None:
        """None unless every one of the tasks has its cell, or if there are no tasks."""
        tasks = self.tasks if task is None else [task]
        found = [self.cells.get((subject, each, metric)) for each in tasks]
        whole = [drawn for drawn in found if drawn is not None]
        return whole if found and len(whole) == len(found) else None

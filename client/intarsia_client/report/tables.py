"""The cells of a report's tables: scores, the best of them, and colours of heat maps.

Knows no HTML: templates make it of these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from intarsia_client.report.colours import diverging_step, step
from intarsia_client.report.measures import Measure
from intarsia_client.report.results import Difference, Results, Score

TIMES = "\u00d7"
MOST_LEVEL_HEADS = 6  # columns up to which their names are written level


@dataclass(frozen=True, slots=True)
class ScoreCell:
    score: Score
    is_best: bool  # of its column, if not all are alike
    marked: Difference | None  # from the reference, if it is significant
    is_gain: bool


@dataclass(frozen=True, slots=True)
class HeatCell:
    value: float
    step: int
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class HeatMap:
    """`ends` is what the first and the last step stand for."""

    family: str
    tasks: tuple[str | None, ...]
    rows: Sequence[tuple[str, Sequence[HeatCell | None]]]
    ends: tuple[str, str]

    @property
    def is_upright(self) -> bool:
        return len(self.tasks) > MOST_LEVEL_HEADS


@dataclass(frozen=True, slots=True)
class Tables:
    """Of one metric. Columns are all tasks together, unless there is only one, and each task."""

    results: Results
    metric: str
    measure: Measure

    @property
    def columns(self) -> tuple[str | None, ...]:
        tasks = self.results.tasks
        return tasks if len(tasks) == 1 else (None, *tasks)

    def scores(self) -> list[tuple[str, list[ScoreCell | None]]]:
        best = {task: self._best(task) for task in self.columns}
        return [
            (subject, [self._score_cell(subject, task, best[task]) for task in self.columns])
            for subject in self.results.subjects
        ]

    def _score_cell(self, subject: str, task: str | None, best: float | None) -> ScoreCell | None:
        score = self.results.score(self.metric, subject, task)
        if score is None:
            return None
        difference = self.results.difference(self.metric, subject, task)
        marked = difference if self.results.is_marked(difference) else None
        is_gain = marked is not None and self.measure.merit(marked.delta) > 0
        return ScoreCell(score, score.mean == best, marked, is_gain)

    def _best(self, task: str | None) -> float | None:
        means = [
            score.mean
            for subject in self.results.subjects
            if (score := self.results.score(self.metric, subject, task))
        ]
        return max(means, key=self.measure.merit) if len(set(means)) > 1 else None

    def heat(self) -> HeatMap | None:
        """Of scores; the scale goes from the worst that there is to the best."""
        found = {
            (subject, task): self.results.score(self.metric, subject, task)
            for subject in self.results.subjects
            for task in self.columns
        }
        means = [score.mean for score in found.values() if score]
        if not means:
            return None
        worst, *_, best = sorted((*means, *means), key=self.measure.merit)
        even = self.measure.even
        length = even(best) - even(worst)

        def cell(subject: str, task: str | None) -> HeatCell | None:
            score = found[subject, task]
            if score is None:
                return None
            share = (even(score.mean) - even(worst)) / length if length else 0.5
            return HeatCell(score.mean, step(share))

        rows = [(s, [cell(s, task) for task in self.columns]) for s in self.results.subjects]
        show = self.measure.show
        return HeatMap("s", self.columns, rows, (f"worst {show(worst)}", f"{show(best)} best"))

    def delta_heat(self) -> HeatMap | None:
        """Of differences from the reference; the scale reaches as far to either side.

        Perplexities are coloured by their factor, as they are in the heat map of scores.
        """
        others = [s for s in self.results.subjects if s != self.results.reference]
        found = {
            (subject, task): self.results.difference(self.metric, subject, task)
            for subject in others
            for task in self.columns
        }
        if not any(found.values()):
            return None
        gains = {place: self._gain(each, *place) for place, each in found.items() if each}
        largest = max(map(abs, gains.values()))

        def cell(subject: str, task: str | None) -> HeatCell | None:
            each = found[subject, task]
            if each is None:
                return None
            share = gains[subject, task] / largest if largest else 0.0
            return HeatCell(each.delta, diverging_step(share), self.results.is_marked(each))

        rows = [(s, [cell(s, task) for task in self.columns]) for s in others]
        return HeatMap("d", self.columns, rows, self._delta_ends(largest))

    def _gain(self, difference: Difference, subject: str, task: str | None) -> float:
        """How much better than the reference, where equal steps look alike."""
        if not self.measure.is_ratio:
            return self.measure.merit(difference.delta)
        own = self.results.score(self.metric, subject, task)
        other = self.results.score(self.metric, str(self.results.reference), task)
        assert own, "a difference is of two scores"
        assert other, "a difference is of two scores"
        return self.measure.merit(self.measure.even(own.mean) - self.measure.even(other.mean))

    def _delta_ends(self, largest: float) -> tuple[str, str]:
        if self.measure.is_ratio:
            factor = self.measure.show(math.exp(largest))
            return f"worse {TIMES} {factor}", f"÷ {factor} better"
        end = self.measure.merit(largest)
        show = self.measure.show_delta
        return f"worse {show(-end)}", f"{show(end)} better"

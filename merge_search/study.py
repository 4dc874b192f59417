"""The search itself: round after round of trials, until enough are made or time is up.

Knows proposals, scores and the journal; nothing of adapters, metrics or HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from merge_search.errors import SearchRefused, TicketLost
from merge_search.journal import Journal, Round
from merge_search.proposals import Proposer, Told
from merge_search.space import Coordinates, Space
from merge_search.trials import Trial, best_of


class Scorer(Protocol):
    """Scores trials together, in a way that outlives this process."""

    def begin(self, trials: Sequence[Trial]) -> str:
        """Start; what the evaluation is called."""
        ...

    def finish(
        self, ticket: str, trials: Sequence[Trial], on_progress: Callable[[float], None]
    ) -> list[float | None]:
        """Wait, and tell the score of each; None: it cannot be scored. Raises TicketLost."""
        ...


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a search is. `num_done` counts trials with the share of those under way."""

    num_done: float
    num_trials: int
    best: Trial | None


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` of evaluation, over all times that the search was started; None: any."""

    trials: int
    batch: int
    seconds: float | None = None


@dataclass(frozen=True)
class Study:
    """`run` does what the journal has not yet. `clock` tells seconds."""

    space: Space
    proposer: Proposer
    scorer: Scorer
    journal: Journal
    limits: Limits
    higher_is_better: bool
    clock: Callable[[], float]
    on_progress: Callable[[Stand], None]

    def run(self, first: Sequence[Trial]) -> list[Trial]:
        """Every trial, scored; `first` are the first round. Raises SearchRefused."""
        if self.limits.trials < len(first):
            told = f"must be at least {len(first)}, the trials of base, candidates and starts"
            raise SearchRefused("trials", told)
        number = 0
        while (found := self._round(number, first)) is not None:
            ticket, trials = found
            self._score(number, ticket, trials)
            number += 1
        return self._trials()

    def _round(self, number: int, first: Sequence[Trial]) -> tuple[str, Sequence[Trial]] | None:
        """The round's evaluation and trials, begun if need be; None if there is no more to do."""
        rounds = self.journal.written.rounds
        if number < len(rounds):
            return rounds[number].ticket, rounds[number].trials
        trials = first if number == 0 else self._proposed(number)
        return (self._begin(number, trials), trials) if trials else None

    def _begin(self, number: int, trials: Sequence[Trial]) -> str:
        ticket = self.scorer.begin(trials)
        self.journal.begin_round(number, ticket, trials)
        return ticket

    def _score(self, number: int, ticket: str, trials: Sequence[Trial]) -> None:
        if self.journal.written.rounds[number].seconds is not None:
            return
        began = self.clock()
        num_before = len(self._trials()) - len(trials)

        def progress(share: float) -> None:
            self._tell(num_before + share * len(trials))

        try:
            scores = self.scorer.finish(ticket, trials, progress)
        except TicketLost:
            scores = self.scorer.finish(self._begin(number, trials), trials, progress)
        self.journal.end_round(number, scores, self.clock() - began)
        progress(1.0)

    def _tell(self, num_done: float) -> None:
        best = best_of(self._trials(), higher_is_better=self.higher_is_better)
        self.on_progress(Stand(num_done, self.limits.trials, best))

    def _proposed(self, number: int) -> list[Trial]:
        """New trials for round `number`; none when limits are reached or nothing is new."""
        made = self._trials()
        count = min(self.limits.batch, self.limits.trials - len(made))
        if count <= 0 or not self._has_time():
            return []
        known = {trial.mix.key for trial in made}

        def is_new(at: Coordinates) -> bool:
            key = self.space.mix(at).key
            is_known = key in known
            known.add(key)
            return not is_known

        told = [Told(trial.at, trial.score) for trial in made if trial.at is not None]
        points = self.proposer.propose(told, count, number, is_new)
        return [
            Trial(len(made) + index, "search", self.space.mix(at), at)
            for index, at in enumerate(points)
        ]

    def _has_time(self) -> bool:
        """Whether a round as long as the last one still fits."""
        if self.limits.seconds is None:
            return True
        spent = [each.seconds or 0.0 for each in self._rounds()]
        return sum(spent) + spent[-1] <= self.limits.seconds

    def _trials(self) -> list[Trial]:
        return [trial for each in self._rounds() for trial in each.trials]

    def _rounds(self) -> list[Round]:
        return self.journal.written.rounds

"""The best trials and the baselines on rows that the search never saw, compared row by row."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from intarsia_client import Evaluation

from merge_search.errors import EvaluationFailed, TicketLost
from merge_search.journal import Journal
from merge_search.scoring import ServerScorer
from merge_search.trials import Trial


@dataclass(frozen=True, slots=True)
class Gain:
    """The best's score less another's, of the same rows, in the metric's unit."""

    delta: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Tested:
    """A trial's score on the test rows; `gain` of the best over it is None for the best itself."""

    trial: Trial
    mean: float
    low: float
    high: float
    n: int
    gain: Gain | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "trial": self.trial.number}


def score_trials(
    scorer: ServerScorer, trials: Sequence[Trial], best: Trial, journal: Journal, purpose: str
) -> list[Tested]:
    """Every one of `trials`, in their order. Raises EvaluationFailed, TicketLost.

    `purpose` says what is asked: an evaluation that the journal knows for it is not begun again.
    """
    found = _known(scorer, journal.written.tickets.get(purpose))
    if found is None:
        ticket = scorer.start(trials, best)
        journal.keep_ticket(purpose, ticket)
        found = scorer.wait(ticket, lambda _: None)
    if found.status != "succeeded":
        raise EvaluationFailed(found.id, str((found.error or {}).get("message", found.status)))
    return [_tested(found, trial, scorer.metric) for trial in trials]


def _known(scorer: ServerScorer, ticket: str | None) -> Evaluation | None:
    if ticket is None:
        return None
    try:
        found = scorer.wait(ticket, lambda _: None)
    except TicketLost:
        return None
    return found if found.status == "succeeded" else None


def _tested(found: Evaluation, trial: Trial, metric: str) -> Tested:
    (result,) = [each for each in found.overall if each["subject"] == trial.name]
    score = result["metrics"][metric]
    gains = [
        _gain(each["metrics"][metric])
        for each in found.comparisons
        if each["subject"] == trial.name and each["task"] is None
    ]
    numbers = (score["mean"], score["low"], score["high"])
    return Tested(trial, *numbers, result["n"], gains[0] if gains else None)


def _gain(compared: dict[str, float]) -> Gain:
    """The server told of the other less the best."""
    delta, low, high = (0.0 - compared[name] for name in ("delta", "high", "low"))
    return Gain(delta, low, high, compared["p_value"])

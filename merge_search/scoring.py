"""Scores from a server: trials as subjects of one evaluation, which mixes them in its batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intarsia_client import Client, Evaluation, EvaluationOptions, NotFound

from merge_search.errors import EvaluationFailed, TicketLost
from merge_search.trials import BASE, Trial

LOOK_S = 0.2  # between looks at an evaluation
Json = Mapping[str, Any]
OnProgress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class ServerScorer:
    """A `study.Scorer`: one metric, the unweighted mean over these data sets."""

    client: Client
    datasets: Sequence[Json]
    metric: str
    options: EvaluationOptions

    def begin(self, trials: Sequence[Trial]) -> str:
        """Raises APIError for a mix that the server does not take."""
        return self.start(trials, None)

    def start(self, trials: Sequence[Trial], reference: Trial | None) -> str:
        """Begin an evaluation that compares all with `reference`; its id."""
        options: EvaluationOptions = {**self.options}
        if reference is not None:
            options["reference"] = reference.name
        subjects = [subject(each) for each in trials]
        return self.client.start_evaluation(subjects, self.datasets, [self.metric], **options).id

    def finish(
        self, ticket: str, trials: Sequence[Trial], on_progress: OnProgress
    ) -> list[float | None]:
        """Scores in the order of `trials`.

        Where the evaluation fails each is evaluated alone, so that one mix that breaks the model
        costs no other its score. Raises TicketLost; EvaluationFailed where all fail.
        """
        found = self.wait(ticket, on_progress)
        if found.status == "succeeded":
            return [self._score(found, trial) for trial in trials]
        scores = [self._alone(trial) for trial in trials] if len(trials) > 1 else []
        if all(score is None for score in scores):
            raise EvaluationFailed(ticket, _reason(found))
        return scores

    def wait(self, ticket: str, on_progress: OnProgress) -> Evaluation:
        """The evaluation once it has succeeded or failed. Raises TicketLost."""
        try:
            while not (found := self.client.evaluation(ticket)).has_ended:
                on_progress(found.progress)
                time.sleep(LOOK_S)
        except NotFound as error:
            raise TicketLost(ticket) from error
        if found.status == "cancelled":
            raise TicketLost(ticket)
        return found

    def _alone(self, trial: Trial) -> float | None:
        found = self.wait(self.begin([trial]), lambda _: None)
        return self._score(found, trial)

    def _score(self, found: Evaluation, trial: Trial) -> float | None:
        """None where the evaluation failed, or has no score of all tasks."""
        for each in found.overall:
            if each["subject"] == trial.name and self.metric in each["metrics"]:
                return float(each["metrics"][self.metric]["mean"])
        return None


def subject(trial: Trial) -> str | Json:
    """The trial as evaluations name it."""
    if not trial.mix.members:
        return BASE
    return {"name": trial.name, **trial.mix.request()}


def _reason(found: Evaluation) -> str:
    return str((found.error or {}).get("message", found.status))

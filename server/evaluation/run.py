"""One go at an evaluation: what is not done yet is asked, many rows at once, and kept in batches.

Lives in one event loop, which it has to itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from adapters_store.evaluation.errors import ScoresRefused
from adapters_store.evaluation.metrics import Evidence, Likelihood
from adapters_store.evaluation.rows import EvalRow
from server.engine.sampling_params import SamplingParams
from server.evaluation.asking import Questions, RowReader, Scored
from server.evaluation.datasets import DataSets
from server.evaluation.engine_room import EngineRoom, Reply
from server.evaluation.plan import Place, Plan
from server.evaluation.store import EvaluationStore, Outcome
from server.jobs.worker import Advance
from server.metrics import EvaluationCounts

TICK_S = 0.05  # between looks at who else waits
BATCH_ROWS, BATCH_S = 64, 0.5  # what is lost at most when the process dies
TASKS_AT_HAND, ROWS_AT_HAND = 2, 256  # rows are asked in order

T = TypeVar("T")


class Run:
    """Mutable. `advance` raises Interrupted when the job was cancelled or the server stops."""

    def __init__(
        self,
        job_id: str,
        plan: Plan,
        store: EvaluationStore,
        datasets: DataSets,
        reader: RowReader,
        counts: EvaluationCounts,
        advance: Advance,
    ) -> None:
        self._job_id, self._plan, self._store = job_id, plan, store
        self._datasets, self._reader = datasets, reader
        self._counts, self._advance = counts, advance
        self._rows = lru_cache(TASKS_AT_HAND)(self._load_rows)
        self._questions = lru_cache(ROWS_AT_HAND)(self._make_questions)
        self._outcomes: list[Outcome] = []
        self._num_kept = 0
        self._kept_at = time.monotonic()
        self._has_ended = False

    async def ask_all(self, room: Callable[[], EngineRoom]) -> None:
        """Return once every row is kept. Raises Interrupted, SubjectGone, or what went wrong."""
        done = self._store.positions(self._job_id)
        self._num_kept = len(done)
        pending = (place for place in self._plan.places() if place.position not in done)
        here = room()
        await all_of([self._ask_each(pending, here), self._watch(here)])
        self._keep()
        assert self._num_kept == self._plan.num_rows, "rows were lost"

    async def _ask_each(self, pending: Iterator[Place], room: EngineRoom) -> None:
        await all_of([self._work(pending, room) for _ in range(room.max_in_flight)])
        self._has_ended = True

    async def _work(self, pending: Iterator[Place], room: EngineRoom) -> None:
        for place in pending:
            outcome = await self._ask(place, room)
            self._outcomes.append(outcome)  # to the batch as it is now, not before the wait
            if len(self._outcomes) >= BATCH_ROWS:
                self._keep()

    async def _watch(self, room: EngineRoom) -> None:
        """Give way to live requests; keep what is done, and hear of a cancellation, in time."""
        while not self._has_ended:
            await asyncio.sleep(TICK_S)
            room.give_way()
            if time.monotonic() - self._kept_at >= BATCH_S:
                self._keep()

    def _keep(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        now = time.monotonic()
        seconds, self._kept_at = now - self._kept_at, now
        self._store.add(self._job_id, outcomes, seconds)
        self._num_kept += len(outcomes)
        self._counts.add(len(outcomes), seconds)
        self._advance(self._num_kept / self._plan.num_rows)

    # One row

    async def _ask(self, place: Place, room: EngineRoom) -> Outcome:
        questions = self._questions(place.task, place.row)
        asked = [*self._asked(place, questions)]
        subject, priority = self._plan.subjects[place.subject], self._plan.priority
        replies = await all_of(
            room.ask(f"{place.position}-{index}", subject, prompt, sampling, priority)
            for index, (prompt, sampling) in enumerate(asked)
        )
        evidence, told = _evidence(questions, replies)
        return Outcome(place, told, self._scores(place, evidence))

    def _asked(
        self, place: Place, questions: Questions
    ) -> Iterator[tuple[tuple[int, ...], SamplingParams]]:
        if questions.prompt is not None:
            yield questions.prompt, self._plan.sampling(place)
        for scored in (questions.target, *questions.choices):
            if scored is not None:
                yield scored.token_ids, _scoring(scored)

    def _scores(self, place: Place, evidence: Evidence) -> dict[str, tuple[float, float]]:
        row = self._row(place.task, place.row)
        try:
            found = {each.name: each.measure(row, evidence) for each in self._plan.table}
        except ScoresRefused as error:
            name, task = self._plan.subjects[place.subject].name, self._plan.tasks[place.task].name
            told = f"row {place.row + 1} of {task}, subject {name}: {error.reason}"
            raise ScoresRefused(told) from error
        return {name: (score.value, score.weight) for name, score in found.items()}

    def _row(self, task: int, row: int) -> EvalRow:
        return self._rows(task)[row]

    def _load_rows(self, task: int) -> Mapping[int, EvalRow]:
        asked = self._plan.tasks[task]
        return dict(zip(asked.rows, self._datasets.rows(asked.dataset, asked.rows), strict=True))

    def _make_questions(self, task: int, row: int) -> Questions:
        return self._reader.questions(self._row(task, row), row + 1)


def _scoring(scored: Scored) -> SamplingParams:
    return SamplingParams(
        max_tokens=0, temperature=0.0, prompt_logprobs=0, prompt_logprobs_from=scored.start
    )


def _evidence(questions: Questions, replies: Sequence[Reply]) -> tuple[Evidence, dict[str, Any]]:
    """The evidence of a row, and the same as it is kept."""
    left = list(replies)
    told: dict[str, Any] = {}
    if questions.prompt is not None:
        answer = left.pop(0)
        told |= {"output": answer.text, "finish_reason": answer.finish_reason}
        told["num_tokens"] = answer.num_tokens
    found = [Likelihood(sum(reply.logprobs), len(reply.logprobs)) for reply in left]
    target = found.pop(0) if questions.target is not None else None
    if target is not None:
        told["target"] = _told(target)
    if questions.choices:
        told["choices"] = [_told(choice) for choice in found]
    return Evidence(told.get("output"), target, tuple(found)), told


def _told(likelihood: Likelihood) -> dict[str, float]:
    return {"logprob": likelihood.logprob, "num_tokens": likelihood.num_tokens}


async def all_of(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all, begun at once. The first that fails ends the others before it raises."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

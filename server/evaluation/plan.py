"""What an evaluation is to do, complete and pinned: the request of its job, as JSON and back.

Its order of work is part of it: position p is always the same row of the same subject, so that an
evaluation that was interrupted goes on where it stopped.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from adapters_store.evaluation.gate import DeltaOver, Gate
from adapters_store.evaluation.metrics import Metric, metrics_of
from server.engine.sampling_params import SamplingParams
from server.evaluation.subjects import Subject

PromptMode = Literal["raw", "chat"]
SEED_BITS = 63


class Place(NamedTuple):
    """One subject on one row, by indices."""

    position: int
    subject: int
    task: int  # of the data sets
    row: int  # in the data set


@dataclass(frozen=True)
class TaskRows:
    """The rows that are asked of one data set."""

    name: str  # in results; no two of an evaluation have the same
    dataset: str  # its id
    digest: str
    num_rows: int  # of the data set
    limit: int | None  # how many of them are asked at most; None: all
    seed: int  # of that choice

    @cached_property
    def rows(self) -> Sequence[int]:
        """Indices of what is asked, ascending; a seed always gives the same."""
        if self.limit is None or self.limit >= self.num_rows:
            return range(self.num_rows)
        return sorted(sorted(range(self.num_rows), key=self._draw)[: self.limit])

    def _draw(self, row: int) -> bytes:
        return hashlib.sha256(f"{self.seed}\0{self.digest}\0{row}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Promotion:
    """The alias that moves to `version` if the gate lets it, and where it stood at submission."""

    name: str  # of the adapter
    alias: str
    version: int
    subject: str
    stood: Mapping[int, float] | None  # version -> share; None: there was no such alias
    gate: Gate


@dataclass(frozen=True)
class Plan:
    """One evaluation. Everything in it is checked before it is made."""

    subjects: Sequence[Subject]
    tasks: Sequence[TaskRows]
    metrics: Sequence[str]
    generation: Mapping[str, Any]  # of SamplingParams
    prompt_mode: PromptMode
    seed: int
    confidence: float
    priority: int
    reference: str | None  # the subject that the others are compared with
    base: Mapping[str, str]  # name and digest
    promotion: Promotion | None

    @property
    def num_rows(self) -> int:
        return self._firsts[-1] * len(self.subjects)

    @cached_property
    def table(self) -> tuple[Metric, ...]:
        """The metrics themselves."""
        return metrics_of(self.metrics)

    @property
    def needs(self) -> frozenset[str]:
        """What must be found out about a row: answer, target, choices."""
        return frozenset(metric.needs for metric in self.table)

    def places(self) -> Iterator[Place]:
        """The order of work. Subjects change fastest, so that their adapters mix in a batch."""
        for task, first in enumerate(self._firsts[:-1]):
            for index, row in enumerate(self.tasks[task].rows):
                for subject in range(len(self.subjects)):
                    position = (first + index) * len(self.subjects) + subject
                    yield Place(position, subject, task, row)

    def sampling(self, place: Place) -> SamplingParams:
        """How the answer is generated: alike for all subjects, apart for every row."""
        told = f"{self.generation['seed']}\0{self.tasks[place.task].digest}\0{place.row}"
        seed = int.from_bytes(hashlib.sha256(told.encode()).digest()) >> (256 - SEED_BITS)
        stop = tuple(self.generation.get("stop", ()))
        return SamplingParams(**{**self.generation, "stop": stop, "seed": seed})

    @cached_property
    def _firsts(self) -> list[int]:
        """The number of rows before each task, and of all."""
        return [0, *accumulate(len(task.rows) for task in self.tasks)]

    def to_json(self) -> dict[str, Any]:
        return {
            "subjects": [subject.to_json() for subject in self.subjects],
            "tasks": [asdict(task) for task in self.tasks],
            "metrics": list(self.metrics),
            "generation": dict(self.generation),
            "prompt_mode": self.prompt_mode,
            "seed": self.seed,
            "confidence": self.confidence,
            "priority": self.priority,
            "reference": self.reference,
            "base": dict(self.base),
            "promotion": self.promotion and _promotion_json(self.promotion),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Plan":
        parsed = {
            "subjects": [Subject.from_json(subject) for subject in told["subjects"]],
            "tasks": [TaskRows(**task) for task in told["tasks"]],
            "promotion": told["promotion"] and _promotion_of(told["promotion"]),
        }
        return cls(**{**told, **parsed})


def _promotion_json(promotion: Promotion) -> dict[str, Any]:
    stood = promotion.stood
    shares = None if stood is None else sorted([version, w] for version, w in stood.items())
    return {**asdict(promotion), "stood": shares}


def _promotion_of(told: Mapping[str, Any]) -> Promotion:
    gate, stood = told["gate"], told["stood"]
    over = gate["min_delta_over"] and DeltaOver(**gate["min_delta_over"])
    parsed = Gate(**{**gate, "min_delta_over": over})
    shares = None if stood is None else {int(version): float(w) for version, w in stood}
    return Promotion(**{**told, "gate": parsed, "stood": shares})

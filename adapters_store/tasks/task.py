"""What is said of a task: its recipe, packages, licence, metric and hazards."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from adapters_store.tasks.packages import Package
from adapters_store.tasks.questions import Question

Metric = Literal["exact match", "Rouge-L"]
Role = Literal["held-in", "held-out"]
Data = TypeVar("Data")


@dataclass(frozen=True, slots=True)
class Task(Generic[Data]):
    """One task. `read` parses the members of all its packages, `questions` asks about the result.

    `balanced` tasks have as many rows of each answer. `shareable` says whether rows may be
    passed on. `num_rows` is what the pinned packages give without a smaller cap (Debian's index
    is of the last look at it).
    """

    name: str
    role: Role
    templates: Sequence[str]
    packages: Sequence[Package]
    read: Callable[[Mapping[str, bytes]], Data]
    questions: Callable[[Data], Iterable[Question]]
    licence: str
    group: str  # what is never on two sides of the split
    hazards: str
    num_rows: int
    metric: Metric = "exact match"
    balanced: bool = False
    shareable: bool = False

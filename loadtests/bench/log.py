"""The log of a benchmark: one JSON object to a line, so that a run which was cut off goes on.

The first line is the machine; then each round that was measured, and each side that was absent.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.bench.summary import Summary


class OtherMachine(Exception):
    """The log at `path` was measured on `theirs`, and this is `ours`."""

    def __init__(self, path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        self.path, self.theirs, self.ours = path, theirs, ours
        super().__init__(f"{path} was measured on another machine: {theirs}; this is {ours}")


@dataclass(frozen=True, slots=True)
class Round:
    """One scenario, played once to one side."""

    side: str
    scenario: str
    number: int
    version: str
    summary: Summary


@dataclass(frozen=True, slots=True)
class Absent:
    """A side that could not be measured in a scenario, and why."""

    side: str
    scenario: str
    reason: str


@dataclass
class Log:
    """All that is known; with `path`, kept there line by line."""

    machine: dict[str, Any]
    path: Path | None = None
    rounds: list[Round] = field(default_factory=list)
    absent: dict[tuple[str, str], Absent] = field(default_factory=dict)  # by side and scenario

    @classmethod
    def open(cls, path: Path, machine: dict[str, Any]) -> "Log":
        """What `path` holds, or a new log there; OtherMachine."""
        log = cls(machine, path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            log._append({"machine": machine})
        for entry in _entries(path):
            log._take(entry)
        if log.machine != machine:
            raise OtherMachine(path, log.machine, machine)
        return log

    def done(self, side: str, scenario: str, number: int) -> bool:
        key = (side, scenario, number)
        return any((each.side, each.scenario, each.number) == key for each in self.rounds)

    def of(self, side: str, scenario: str) -> list[Summary]:
        """The rounds of one cell."""
        wanted = (side, scenario)
        return [each.summary for each in self.rounds if (each.side, each.scenario) == wanted]

    def versions(self) -> dict[str, str]:
        """By side, of its last round."""
        return {each.side: each.version for each in self.rounds}

    def add(self, entry: Round | Absent) -> None:
        self._append({type(entry).__name__.lower(): asdict(entry)})
        self._keep(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def _take(self, entry: dict[str, Any]) -> None:
        ((kind, fields),) = entry.items()
        if kind == "machine":
            self.machine = fields
        elif kind == "round":
            self._keep(Round(**{**fields, "summary": Summary(**fields["summary"])}))
        else:
            self._keep(Absent(**fields))

    def _keep(self, entry: Round | Absent) -> None:
        """A round that could be measured in the end takes away the word that it could not."""
        key = (entry.side, entry.scenario)
        if isinstance(entry, Round):
            self.rounds.append(entry)
            self.absent.pop(key, None)
        else:
            self.absent[key] = entry


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines. What a process left of its last line when it was cut off is taken away."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return map(json.loads, whole.splitlines())

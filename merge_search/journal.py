"""What a search has done, as JSON lines on disk: a search that is started again goes on from it.

A line is whole once it ends; one that the process's death cut short is dropped. The first line
says which search it is. Knows nothing of how trials are chosen or scored.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from merge_search.errors import JournalRefused
from merge_search.trials import Trial

FORMAT = "intarsia-search/1"
Json = dict[str, Any]


@dataclass(slots=True)
class Round:
    """Mutable. Trials that are evaluated together; scored once `seconds` is known."""

    ticket: str  # what the evaluation is called
    trials: list[Trial]
    seconds: float | None = None


@dataclass(slots=True)
class Written:
    """Mutable. What the journal holds."""

    rounds: list[Round] = field(default_factory=list)
    tickets: dict[str, str] = field(default_factory=dict)  # of other evaluations, by purpose


class Journal:
    """Mutable; a context manager that has the file to itself. `head` says which search it is.

    Raises JournalRefused where the file is of another search, or in use.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self._path, self._head = path, {"format": FORMAT, **head}
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        self.written = Written()

    def __enter__(self) -> Self:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise JournalRefused(self._path, "another process searches here") from error
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def begin_round(self, number: int, ticket: str, trials: Sequence[Trial]) -> None:
        """Round `number` is being evaluated; again, if it was before."""
        line = {"trials": [trial.to_json() for trial in trials]}
        self._write({"round": number, "ticket": ticket, **line})

    def end_round(self, number: int, scores: Sequence[float | None], seconds: float) -> None:
        self._write({"ended": number, "scores": list(scores), "seconds": seconds})

    def keep_ticket(self, purpose: str, ticket: str) -> None:
        self._write({"purpose": purpose, "ticket": ticket})

    def _write(self, line: Json) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    def _read(self) -> None:
        whole = self._whole_lines()
        if not whole:
            self._write(self._head)
            return
        head = whole[0]
        if changed := [name for name in self._head if head.get(name) != self._head[name]]:
            told = f"it is another search, of other {', '.join(changed)}"
            raise JournalRefused(self._path, told)
        for line in whole[1:]:
            self._take(line)

    def _whole_lines(self) -> list[Json]:
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            os.truncate(self._path, end)
        try:
            return [json.loads(line) for line in data[:end].splitlines()]
        except ValueError as error:
            raise JournalRefused(self._path, f"it is no journal: {error}") from error

    def _take(self, line: Json) -> None:
        rounds = self.written.rounds
        if "round" in line:
            trials = [Trial.from_json(each) for each in line["trials"]]
            rounds[line["round"] :] = [Round(line["ticket"], trials)]
        elif "ended" in line:
            ended = rounds[line["ended"]]
            scored = zip(ended.trials, line["scores"], strict=True)
            ended.trials = [trial.scored(score) for trial, score in scored]
            ended.seconds = line["seconds"]
        elif "purpose" in line:
            self.written.tickets[line["purpose"]] = line["ticket"]

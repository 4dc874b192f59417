"""The committed log of a comparison: one line a run, its losses beside it. Whole at any time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    """`results.jsonl` and `losses/<run>.json` in `folder`. A line's `run` is its key."""

    folder: Path
    _writing: Lock = field(default_factory=Lock)

    @property
    def file(self) -> Path:
        return self.folder / "results.jsonl"

    def lines(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All lines, or those of a stage, in the order in which their runs ended."""
        if not self.file.exists():
            return []
        found = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [line for line in found if stage in (None, line["stage"])]

    def line(self, run: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The line of a run that was made with these settings, if it is there."""
        same = [e for e in self.lines() if e["run"] == run and e["settings"] == settings]
        return same[-1] if same else None

    def add(self, line: Line, losses: Sequence[float]) -> None:
        """A line, in place of an earlier one of the same run, and the loss of each step."""
        with self._writing:
            (self.folder / "losses").mkdir(parents=True, exist_ok=True)
            if losses:
                text = json.dumps([round(loss, 4) for loss in losses])
                (self.folder / "losses" / f"{line['run']}.json").write_text(text + "\n")
            kept = [earlier for earlier in self.lines() if earlier["run"] != line["run"]]
            partial = self.file.with_suffix(".partial")
            partial.write_text("".join(json.dumps(each) + "\n" for each in [*kept, line]))
            partial.replace(self.file)

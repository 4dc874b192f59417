"""A run in a folder: `intarsia train` to its end, then its scores; what is there is not done again.

Knows nothing of which runs there are, nor of the log.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from examples.processes import INTARSIA, Processes
from examples.scoring import ANSWERS
from examples.task_rows import TaskRows

MICRO_BATCH = 8
SELECTING_SHARE = 0.2  # of the steps, as one of the paper's five epochs
SELECTIONS = 4  # in those steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What `intarsia train` is told. `rows` are the first of each task in `data`, mixed."""

    steps: int
    data: Sequence[str]
    lr: float
    fields: Mapping[str, Any]  # of TrainConfig: the method
    validation: str | None = None
    validation_rows: int = 100
    start_from: Path | None = None

    def config(self, task_rows: TaskRows, base: Path, output: Path) -> dict[str, Any]:
        """The fields of TrainConfig, with absolute paths."""
        each = -(-self.steps * MICRO_BATCH // len(self.data))
        files = [task_rows.file(name, "train", each) for name in self.data]
        count = sum(len(task_rows.rows(name, "train", each)) for name in self.data)
        found: dict[str, Any] = {
            "base": str(base),
            "data": [str(file) for file in files],
            "output": str(output),
            "max_steps": self.steps,
            "lr": self.lr,
            "batch": MICRO_BATCH,
            "accumulation": 1,
            "save_every": 20,
            **self.fields,
        }
        if self.fields["method"] == "mcs":
            found |= _selecting(self.steps, count)
        if self.start_from:
            found["start_from"] = str(self.start_from)
        if self.validation:
            watched = task_rows.file(self.validation, "validation", self.validation_rows)
            found |= {"validation": [str(watched)], "evaluate_every": self.steps}
        return found

    def described(self) -> dict[str, Any]:
        """All that decides the result, for a log: no paths."""
        return {
            "steps": self.steps,
            "batch": MICRO_BATCH,
            "data": list(self.data),
            "lr": self.lr,
            "validation": self.validation,
            **self.fields,
        }


def _selecting(steps: int, num_rows: int) -> dict[str, Any]:
    """The dense phase is a fixed share of the steps, however many rows an epoch has."""
    dense = max(1, round(SELECTING_SHARE * steps))
    micro_batches = -(-num_rows // MICRO_BATCH)
    return {
        "selecting_epochs": (dense - 0.5) / micro_batches,  # is rounded up to `dense`
        "reselect_every": max(1, dense // SELECTIONS),
    }


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs work, and on what."""

    base: Path
    folder: Path  # of all runs
    task_rows: TaskRows
    processes: Processes = field(default_factory=Processes)

    def of(self, run: str) -> Path:
        return self.folder / run

    def adapter(self, run: str) -> Path:
        return self.of(run) / "adapter.safetensors"

    def trained(self, run: str, training: Training) -> dict[str, Any]:
        """The result of a training, which is begun, gone on with, or there already."""
        folder = self.of(run)
        result, checkpoints = folder / "result.json", folder / "checkpoints"
        if checkpoints.exists() or not result.exists():
            folder.mkdir(parents=True, exist_ok=True)
            config = folder / "config.json"
            config.write_text(
                json.dumps(training.config(self.task_rows, self.base, folder), indent=1)
            )
            self.processes.run([INTARSIA, "train", "--config", str(config)], folder)
            rmtree(checkpoints)
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    def merged(self, run: str, members: Sequence[Path]) -> Path:
        """The overlap average (eq. 4) of adapter files."""
        path = self.adapter(run)
        if not path.exists():
            command = [INTARSIA, "merge", "--method", "overlap_average", "--out", str(path)]
            self.processes.run([*command, *map(str, members)], self.of(run))
        return path

    def scored(
        self, run: str, tasks: Sequence[str], most: int, adapter: Path | None
    ) -> dict[str, Any]:
        """Scores of an adapter, or of the base itself, on the first unseen rows of each task."""
        out = self._scores(run, most)
        if not out.exists():
            files = [f"{task}={self.task_rows.file(task, 'test', most)}" for task in tasks]
            command = [sys.executable, "-m", "examples.scoring", "--base", str(self.base)]
            command += [word for file in files for word in ("--rows", file)]
            command += ["--out", str(out)]
            command += ["--adapter", str(adapter)] if adapter else []
            self.processes.run(command, self.of(run))
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    def answers(self, run: str, most: int) -> list[dict[str, str]]:
        """What was said when that was scored: prompt, target and answer of each row."""
        lines = self._scores(run, most).with_suffix(ANSWERS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def _scores(self, run: str, most: int) -> Path:
        return self.of(run) / f"scores-{most}.json"

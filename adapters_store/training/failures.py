"""What can go wrong with a training run, around the core of training, with its data."""

from collections.abc import Sequence
from pathlib import Path

from adapters_store.training.errors import TrainingError


class ConfigRefused(TrainingError):
    """The configuration cannot be: `reasons` name each field and what is wrong with it."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


class DataRefused(TrainingError):
    """The data in `path` are no rows of prompt and target: `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class StartRefused(TrainingError):
    """Training cannot go on from the adapter that it was given: `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"start_from: {reason}")


class OtherRun(TrainingError):
    """`directory` holds the checkpoints of a run whose settings `fields` were others."""

    def __init__(self, directory: Path, fields: Sequence[str]) -> None:
        self.directory, self.fields = directory, tuple(fields)
        names = ", ".join(self.fields)
        super().__init__(f"{directory} holds another run, of other {names}: remove it or go apart")


class Interrupted(TrainingError):
    """The run was asked to end; its state after step `step` of `steps` is in `directory`."""

    def __init__(self, directory: Path, step: int, steps: int) -> None:
        self.directory, self.step, self.steps = directory, step, steps
        super().__init__(f"stopped after step {step} of {steps}: run it again to go on")

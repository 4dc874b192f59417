"""What can go wrong with the data of a task, as types that hold their data."""

from collections.abc import Sequence
from pathlib import Path

from adapters_store.errors import StoreError


class TasksError(StoreError):
    """Base class: a task cannot be made or read."""


class PackageUnavailable(TasksError):
    """The package `name` of `version` could not be had: `command` answered `reason`."""

    def __init__(self, name: str, version: str, command: str, reason: str) -> None:
        self.name, self.version, self.command, self.reason = name, version, command, reason
        super().__init__(f"{name} {version} cannot be had: `{command}` answered: {reason}")


class PackageCorrupt(TasksError):
    """`file` has the sha256 `found` in place of the pinned one, `expected`."""

    def __init__(self, file: Path, found: str, expected: str) -> None:
        self.file, self.found, self.expected = file, found, expected
        super().__init__(f"{file}: its sha256 is {found}, not {expected}")


class SourceChanged(TasksError):
    """A package does not hold what a task is made of: `what`."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"the package does not hold {what}")


class UnknownTask(TasksError):
    """No task is called `name`; there are `known`."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(f"there is no task {name!r}; there are {', '.join(known)}")


class RowsMissing(TasksError):
    """`file`, one side of a task's rows, is not there."""

    def __init__(self, file: Path) -> None:
        self.file = file
        super().__init__(f"{file} is not there: `intarsia tasks build` makes it")


class RowsCorrupt(TasksError):
    """Line `line` of `file` is no row."""

    def __init__(self, file: Path, line: int) -> None:
        self.file, self.line = file, line
        super().__init__(f"{file}, line {line}: not an object of task, prompt and target")

"""The table of the thirty tasks: twenty to train adapters on and ten held out."""

from collections.abc import Sequence
from typing import Any

from adapters_store.tasks import tasks_of_debian, tasks_of_pypi
from adapters_store.tasks.errors import UnknownTask
from adapters_store.tasks.task import Task

TASKS: Sequence[Task[Any]] = sorted(
    [*tasks_of_pypi.TASKS, *tasks_of_debian.TASKS], key=lambda task: task.role
)


def named(names: Sequence[str]) -> list[Task[Any]]:
    """The tasks called `names`, or all if there are none; in the order of the table.

    Raises `UnknownTask`.
    """
    known = [task.name for task in TASKS]
    for name in names:
        if name not in known:
            raise UnknownTask(name, known)
    return [task for task in TASKS if not names or task.name in names]

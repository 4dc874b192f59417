"""The table of tasks as Markdown, for the documents and the command line."""

from collections.abc import Iterator, Sequence
from typing import Any

from adapters_store.tasks.task import Task

COLUMNS = ("task", "role", "metric", "split by", "rows", "made from", "licence", "hazards")


def markdown(tasks: Sequence[Task[Any]]) -> str:
    """A table with a row per task, and below it what each asks."""
    lines = [_line(COLUMNS), _line(["--"] * len(COLUMNS)), *map(_task_line, tasks), ""]
    return "\n".join([*lines, *(line for task in tasks for line in _template_lines(task))]) + "\n"


def _task_line(task: Task[Any]) -> str:
    sources = ", ".join(map(str, task.packages))
    licence = task.licence if task.shareable else f"{task.licence} (rows not to be passed on)"
    told = [task.role, task.metric, task.group, f"{task.num_rows:,}", sources, licence]
    return _line([f"`{task.name}`", *told, task.hazards])


def _template_lines(task: Task[Any]) -> Iterator[str]:
    asked = " / ".join(f"`{template}`" for template in task.templates).replace("\n", " ⏎ ")
    yield f"- `{task.name}`: {asked}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

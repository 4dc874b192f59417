"""Builds tasks: fetches packages, makes rows, writes them with a manifest and the licences.

`<out>/<task>/` holds train, validation and test `.jsonl` and `task.json`; `<out>/` has
`manifest.json` and `LICENCES.md` about all tasks that lie there. The same packages give the same
bytes. Knows nothing of any one task.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapters_store.tasks.errors import SourceChanged, TasksError
from adapters_store.tasks.fetching import Cache, digest
from adapters_store.tasks.packages import Package
from adapters_store.tasks.questions import SEED
from adapters_store.tasks.rows import SPLITS, Row, Split, file_of, to_jsonl
from adapters_store.tasks.splitting import split_rows
from adapters_store.tasks.task import Task

CAP = 40_000
MANIFEST, LICENCES, OF_TASK = "manifest.json", "LICENCES.md", "task.json"
Walk = Callable[[Sequence[Task[Any]]], Iterable[Task[Any]]]


@dataclass(slots=True)
class Outcome:
    """The number of rows of each task that was built, and why others could not be."""

    built: dict[str, int] = field(default_factory=dict)
    failed: dict[str, TasksError] = field(default_factory=dict)


class Reader:
    """Parsed packages. Keeps the last result, since the tasks of one family follow each other."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._key: object = None
        self._data: Any = None

    def data(self, task: Task[Any]) -> Any:
        """What `task.read` makes of the packages; raises a `TasksError`."""
        key = (task.read, tuple(task.packages))
        if key != self._key:
            self._key = self._data = None  # frees the last one before the next is read
            members = self._cache.members(task.packages)
            try:
                self._data = task.read(members)
            except KeyError as error:
                raise SourceChanged(str(error)) from error
            self._key = key
        return self._data


def build(
    tasks: Sequence[Task[Any]], out: Path, cache: Cache, cap: int = CAP, walk: Walk = iter
) -> Outcome:
    """Make `tasks` of at most `cap` rows each; one that cannot be made does not stop the others.

    `walk` goes through the tasks in the order given to it, and may show how far it is.
    """
    outcome = Outcome()
    reader = Reader(cache)
    for task in walk(sorted(tasks, key=lambda task: [str(package) for package in task.packages])):
        try:
            rows = make_rows(task, reader.data(task), cap)
            write_task(task, rows, out / task.name, cache, cap)
            outcome.built[task.name] = sum(map(len, rows.values()))
        except TasksError as error:
            outcome.failed[task.name] = error
    write_overview(out)
    return outcome


def make_rows(task: Task[Any], data: Any, cap: int) -> Mapping[Split, Sequence[Row]]:
    """The sides of `task`, asked about parsed `data`."""
    return split_rows(task.name, task.questions(data), balanced=task.balanced, cap=cap)


def write_task(
    task: Task[Any], rows: Mapping[Split, Sequence[Row]], folder: Path, cache: Cache, cap: int
) -> None:
    """Write the rows, and `task.json` last: a folder that has it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OF_TASK).unlink(missing_ok=True)
    splits = {}
    for split in SPLITS:
        content = to_jsonl(rows[split])
        file_of(folder, split).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        splits[split] = {"rows": len(rows[split]), "sha256": sha256}
    told = {
        "task": task.name,
        "role": task.role,
        "templates": task.templates,
        "metric": task.metric,
        "group": task.group,
        "hazards": task.hazards,
        "licence": task.licence,
        "shareable": task.shareable,
        "seed": SEED,
        "cap": cap,
        "packages": [described(package, cache) for package in task.packages],
        "splits": splits,
    }
    _write_json(folder / OF_TASK, told)


def described(package: Package, cache: Cache) -> Mapping[str, str | None]:
    """What the manifest says of a package: its pin, or the digest of what was found instead."""
    path = cache.obtain(package)
    return {**asdict(package), "sha256": digest(path) if path is not None else None}


def write_overview(out: Path) -> None:
    """`manifest.json` and `LICENCES.md`, of every whole task in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(out.glob(f"*/{OF_TASK}"))
    tasks = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    _write_json(out / MANIFEST, {"tasks": {task["task"]: task for task in tasks}})
    (out / LICENCES).write_text("\n".join(_licence_lines(tasks)) + "\n", encoding="utf-8")


def _licence_lines(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["# Licences of the rows", ""]
    lines += ["| task | licence | may be passed on | made from |", "|--|--|--|--|"]
    for task in tasks:
        sources = ", ".join(f"{p['name']} {p['version']}" for p in task["packages"])
        passed_on = "yes" if task["shareable"] else "no"
        lines.append(f"| `{task['task']}` | {task['licence']} | {passed_on} | {sources} |")
    return lines


def _write_json(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")

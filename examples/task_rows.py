"""Rows of the held-in tasks as files for `intarsia train`: built once, cut where less is wanted."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from adapters_store.tasks.rows import Row, Split, load, to_jsonl
from adapters_store.tasks.table import named
from examples.processes import INTARSIA, Processes


class TaskRows:
    """The tasks built in `data_dir/tasks`. Cut files go to `data_dir/task-rows`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self._writing = Lock()

    def build(self, names: Sequence[str], processes: Processes) -> None:
        """Make those of the tasks that are not there, with `intarsia tasks build`."""
        assert all(task.role == "held-in" for task in named(names))
        missing = [name for name in names if not (self._folder(name) / "task.json").exists()]
        if missing:
            wanted = [word for name in missing for word in ("--task", name)]
            command = [INTARSIA, "tasks", "build", "--data-dir", str(self.data_dir), *wanted]
            processes.run(command, self.data_dir / "task-rows")

    def rows(self, name: str, split: Split, most: int) -> Sequence[Row]:
        """The first of a side, whose order is random and fixed."""
        return load(self._folder(name), split)[:most]

    def file(self, name: str, split: Split, most: int) -> Path:
        """A file with the first rows of a side, at most so many."""
        path = self.data_dir / "task-rows" / f"{name}.{split}.{most}.jsonl"
        content = to_jsonl(self.rows(name, split, most))
        with self._writing:  # another thread's process may be reading it
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                partial.write_bytes(content)
                partial.replace(path)
        return path

    def _folder(self, name: str) -> Path:
        return self.data_dir / "tasks" / name

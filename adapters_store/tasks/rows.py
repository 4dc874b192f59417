"""The rows of a task as they lie on disk: `<task>/<split>.jsonl`, one JSON object a line.

Knows nothing of where rows come from.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from adapters_store.tasks.errors import RowsCorrupt, RowsMissing

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Row:
    """One question of `task` and the only answer that counts as right."""

    task: str
    prompt: str
    target: str


def load(task_dir: Path, split: Split) -> list[Row]:
    """The rows of one side of the task built in `task_dir`, in their fixed random order.

    Raises `RowsMissing` or `RowsCorrupt`.
    """
    file = file_of(task_dir, split)
    if not file.exists():
        raise RowsMissing(file)
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [_row(file, number, line) for number, line in enumerate(lines, start=1)]


def file_of(task_dir: Path, split: Split) -> Path:
    return task_dir / f"{split}.jsonl"


def to_jsonl(rows: Iterable[Row]) -> bytes:
    """`rows` as the bytes of a file: UTF-8, a newline after each."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows).encode()


def _row(file: Path, number: int, line: str) -> Row:
    try:
        return Row(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise RowsCorrupt(file, number) from error

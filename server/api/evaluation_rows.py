"""The rows that an evaluation names: in its body, in a kept data set, or in a built-in task."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters_store.errors import InvalidName
from adapters_store.evaluation.errors import DataSetRefused, RowRefused
from adapters_store.evaluation.rows import EvalRow, parse_rows, read_jsonl, rows_digest
from adapters_store.names import check_name
from adapters_store.registry.evaluation_errors import TaskNotBuilt
from server.api.evaluation_bodies import DataSetBody, EvaluationBody
from server.errors import BadRequest
from server.evaluation.datasets import id_of
from server.evaluation.evaluations import Evaluations

WHOLE = "task.json"  # is written last
KINDS = ("rows", "id", "task")


@dataclass(frozen=True, slots=True)
class Found:
    """One data set of an evaluation, its rows parsed."""

    name: str
    digest: str
    rows: Sequence[EvalRow]
    field: str  # of the body
    is_inline: bool

    @property
    def id(self) -> str:
        return id_of(self.digest)

    def refused(self, error: RowRefused) -> BadRequest:
        return _refused(error, self.field, is_inline=self.is_inline)


def find_rows(body: EvaluationBody, evaluations: Evaluations) -> list[Found]:
    """Raises DataSetNotFound, TaskNotBuilt, DataSetRefused; BadRequest that names row and field."""
    if (body.dataset is None) == (body.datasets is None):
        raise BadRequest("give either 'dataset' or 'datasets'", "dataset")
    if body.dataset is not None:
        return [_find(body.dataset, "dataset", "inline", evaluations)]
    return [
        _find(each, f"datasets.{index}", f"inline-{index + 1}", evaluations)
        for index, each in enumerate(body.datasets or ())
    ]


def _find(asked: DataSetBody, field: str, inline: str, evaluations: Evaluations) -> Found:
    given = [kind for kind in KINDS if getattr(asked, kind) is not None]
    if len(given) != 1:
        raise BadRequest(f"{field}: give one of {', '.join(KINDS)}", field)
    if asked.rows is not None:
        with _named(field, is_inline=True):
            rows = parse_rows(asked.rows)
        return Found(asked.name or inline, rows_digest(rows), rows, field, True)
    if asked.id is not None:
        record = evaluations.datasets.find(asked.id)
        name = asked.name or record.name or record.id
        rows = tuple(evaluations.datasets.rows(record.id))
        return Found(name, record.digest, rows, f"{field}.id", False)
    assert asked.task is not None
    with _named(f"{field}.task", is_inline=False):
        rows = _of_task(asked.task, asked.split, evaluations.tasks)
    return Found(asked.name or asked.task, rows_digest(rows), rows, f"{field}.task", False)


def _of_task(task: str, split: str, folder: Path) -> tuple[EvalRow, ...]:
    check_name(task)  # so that it leads nowhere else
    file = folder / task / f"{split}.jsonl"
    if not (folder / task / WHOLE).is_file() or not file.is_file():
        raise TaskNotBuilt(task, f"intarsia tasks build --task {task}")
    with file.open("rb") as stream:
        return tuple(read_jsonl(stream))


@contextmanager
def _named(field: str, *, is_inline: bool) -> Iterator[None]:
    """What is wrong with rows within, by the field of the body."""
    try:
        yield
    except RowRefused as error:
        raise _refused(error, field, is_inline=is_inline) from error
    except DataSetRefused as error:
        raise BadRequest(f"{field}: {error.reason}", field) from error
    except InvalidName as error:
        raise BadRequest(f"{field}: {error}", field) from error


def _refused(error: RowRefused, field: str, *, is_inline: bool) -> BadRequest:
    row = f"{field}.rows.{error.row - 1}" if is_inline else field
    param = f"{row}.{error.field}" if is_inline and error.field else row
    return BadRequest(f"{field}: {error}", param)

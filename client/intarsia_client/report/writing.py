"""From an evaluation's id to its report as a file. Imports what draws only to draw."""

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from intarsia_client.client import Client
from intarsia_client.errors import InvalidArgument
from intarsia_client.evaluation import Evaluation
from intarsia_client.files import incoming
from intarsia_client.types import Json

NEEDED = ("jinja2", "matplotlib")
MAX_PAGE = 1000  # answers of a task that examples are chosen from: one call for each task


def check_report(path: Path) -> None:
    """Raise InvalidArgument where no report could be written, before anything is evaluated."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        reason = f"needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        raise InvalidArgument("report", reason)
    if not path.parent.is_dir():
        raise InvalidArgument("report", f"there is no directory {path.parent}")


def write_report(client: Client, evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation that has succeeded to `path`, which appears only when it is whole."""
    from intarsia_client.report.page import evaluation_report

    page = evaluation_report(evaluation.raw, _rows(client, evaluation.raw))
    with incoming(path) as file:
        file.write(page.encode())


def _rows(client: Client, evaluation: Json) -> Iterator[Json]:
    """The first answers of every task; every subject's, since rows are asked subject by subject."""
    for dataset in evaluation["datasets"]:
        found = client.evaluation_rows(evaluation["id"], task=dataset["name"], page_size=MAX_PAGE)
        yield from (row.raw for row in islice(found, MAX_PAGE))

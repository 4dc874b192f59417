"""The synchronous client's methods for evaluations and data sets: `client` joins them.

`async_evaluations` is their twin.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, Unpack

import httpx

from intarsia_client import evaluation as calls
from intarsia_client.evaluation import (
    DataSet,
    Evaluation,
    EvaluationOptions,
    EvaluationRow,
    ProgressReader,
    Subject,
)
from intarsia_client.types import Json
from intarsia_client.wire import Call

T = TypeVar("T")


class EvaluationMethods:
    """Expects of the class that it is part of how calls are sent."""

    def _send(self, call: Call[T]) -> T:
        raise NotImplementedError

    def _open(self, call: Call[Any]) -> AbstractContextManager[httpx.Response]:
        raise NotImplementedError

    def upload_dataset(self, path: Path | str, name: str | None = None) -> DataSet:
        """Keeps a JSON lines file; the same rows are one data set."""
        with Path(path).open("rb") as file:
            return self._send(calls.upload_dataset(file, name))

    def datasets(self, limit: int = 100) -> tuple[DataSet, ...]:
        """At most `limit` data sets, the newest first."""
        return self._send(calls.datasets(limit))

    def dataset(self, dataset_id: str) -> DataSet:
        return self._send(calls.dataset(dataset_id))

    def delete_dataset(self, dataset_id: str) -> None:
        """Raises Conflict while an evaluation reads it."""
        self._send(calls.delete_dataset(dataset_id))

    def start_evaluation(
        self,
        subjects: Sequence[Subject],
        datasets: Sequence[Json],
        metrics: Sequence[str],
        **options: Unpack[EvaluationOptions],
    ) -> Evaluation:
        """Queues an evaluation of every subject on every data set.

        A data set is {"rows": [...]}, {"id": ...} or {"task": ..., "split": ...}.
        """
        return self._send(calls.start(subjects, datasets, metrics, options))

    def evaluation(self, evaluation_id: str) -> Evaluation:
        """An evaluation as it stands."""
        return self._send(calls.evaluation(evaluation_id))

    def evaluations(self, limit: int = 100) -> tuple[Evaluation, ...]:
        """At most `limit` evaluations, the newest first."""
        return self._send(calls.evaluations(limit))

    def watch_evaluation(self, evaluation_id: str) -> Generator[Evaluation, None, None]:
        """The evaluation at every change, until it has ended; the last one has its results."""
        with self._open(calls.events(evaluation_id)) as response:
            reader = ProgressReader(response)
            for data in response.iter_bytes():
                yield from reader.feed(data)
            reader.finish()

    def evaluation_rows(
        self,
        evaluation_id: str,
        *,
        subject: str | None = None,
        task: str | None = None,
        page_size: int = 100,
    ) -> Iterator[EvaluationRow]:
        """What subjects made of rows so far, asked for a page at a time."""
        after: int | None = -1
        while after is not None:
            page = self._send(calls.rows(evaluation_id, page_size, after, subject, task))
            yield from page.data
            after = page.next_cursor

    def cancel_evaluation(self, evaluation_id: str) -> Evaluation:
        """Ends an evaluation before its time; one that has ended stays as it is."""
        return self._send(calls.cancel(evaluation_id))

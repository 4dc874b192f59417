"""The asynchronous client's methods for evaluations and data sets: `async_client` joins them.

`evaluations` again, method for method, with its awaits.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
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


class AsyncEvaluationMethods:
    """Expects of the class that it is part of how calls are sent."""

    async def _send(self, call: Call[T]) -> T:
        raise NotImplementedError

    def _open(self, call: Call[Any]) -> AbstractAsyncContextManager[httpx.Response]:
        raise NotImplementedError

    async def upload_dataset(self, path: Path | str, name: str | None = None) -> DataSet:
        """Keeps a JSON lines file; the same rows are one data set."""
        with Path(path).open("rb") as file:
            return await self._send(calls.upload_dataset(file, name))

    async def datasets(self, limit: int = 100) -> tuple[DataSet, ...]:
        """At most `limit` data sets, the newest first."""
        return await self._send(calls.datasets(limit))

    async def dataset(self, dataset_id: str) -> DataSet:
        return await self._send(calls.dataset(dataset_id))

    async def delete_dataset(self, dataset_id: str) -> None:
        """Raises Conflict while an evaluation reads it."""
        await self._send(calls.delete_dataset(dataset_id))

    async def start_evaluation(
        self,
        subjects: Sequence[Subject],
        datasets: Sequence[Json],
        metrics: Sequence[str],
        **options: Unpack[EvaluationOptions],
    ) -> Evaluation:
        """Queues an evaluation of every subject on every data set.

        A data set is {"rows": [...]}, {"id": ...} or {"task": ..., "split": ...}.
        """
        return await self._send(calls.start(subjects, datasets, metrics, options))

    async def evaluation(self, evaluation_id: str) -> Evaluation:
        """An evaluation as it stands."""
        return await self._send(calls.evaluation(evaluation_id))

    async def evaluations(self, limit: int = 100) -> tuple[Evaluation, ...]:
        """At most `limit` evaluations, the newest first."""
        return await self._send(calls.evaluations(limit))

    async def watch_evaluation(self, evaluation_id: str) -> AsyncGenerator[Evaluation, None]:
        """The evaluation at every change, until it has ended; the last one has its results."""
        async with self._open(calls.events(evaluation_id)) as response:
            reader = ProgressReader(response)
            async for data in response.aiter_bytes():
                for evaluation in reader.feed(data):
                    yield evaluation
            reader.finish()

    async def evaluation_rows(
        self,
        evaluation_id: str,
        *,
        subject: str | None = None,
        task: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[EvaluationRow]:
        """What subjects made of rows so far, asked for a page at a time."""
        after: int | None = -1
        while after is not None:
            page = await self._send(calls.rows(evaluation_id, page_size, after, subject, task))
            for row in page.data:
                yield row
            after = page.next_cursor

    async def cancel_evaluation(self, evaluation_id: str) -> Evaluation:
        """Ends an evaluation before its time; one that has ended stays as it is."""
        return await self._send(calls.cancel(evaluation_id))

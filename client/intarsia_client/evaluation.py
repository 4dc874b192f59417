"""Evaluations and data sets as the server answers them, and the calls that ask. See `types`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from intarsia_client.answers import END_OF_STREAM, unreadable
from intarsia_client.errors import ConnectionFailed, InvalidArgument
from intarsia_client.sse import EventParser
from intarsia_client.types import Answer, Json
from intarsia_client.wire import Call

T = TypeVar("T")
Subject = str | Json  # a reference, or {"adapters": [...], "merge": {...}, "name": ...}
ENDED = ("succeeded", "failed", "cancelled")
EVALUATIONS, DATASETS = "/v1/evaluations", "/v1/datasets"


class EvaluationOptions(TypedDict, total=False):
    """What is absent or None is left to the server."""

    generation: Json | None  # max_tokens, temperature, stop, seed, ...
    prompt_mode: str | None  # "raw" or "chat"
    limit: int | None  # rows of each data set, a sample by `seed`
    seed: int | None
    confidence: float | None
    priority: int | None  # lower is earlier; live requests have 0
    reference: str | None  # the subject that the others are compared with
    promote: Json | None  # {"alias": "name@alias", "if": {...}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet(Answer):
    """A data set that the server keeps; `digest` is of what its rows say."""

    id: str
    digest: str
    name: str | None
    rows: int
    bytes: int
    created: float

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("id", "digest", "name", "rows", "bytes", "created")
        return cls(**{name: raw[name] for name in names}, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Answer):
    """An evaluation as it stands; results are empty until `status` is succeeded.

    Each of `results` has subject, task, metrics by name (mean, low, high) and n; `overall` is over
    all tasks. `promotion` is the decision of its gate, if it has one.
    """

    id: str
    status: str
    progress: float  # 0 to 1
    rows_done: int
    rows_total: int
    rows_per_second: float | None
    seconds_left: float | None
    results: tuple[Json, ...]
    overall: tuple[Json, ...]
    comparisons: tuple[Json, ...]
    promotion: Json | None
    error: Json | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("id", "status", "progress", "rows_per_second", "seconds_left")
        return cls(
            **{name: raw[name] for name in names},
            rows_done=raw["rows"]["done"],
            rows_total=raw["rows"]["total"],
            results=tuple(raw.get("results") or ()),
            overall=tuple(raw.get("overall") or ()),
            comparisons=tuple(raw.get("comparisons") or ()),
            promotion=raw.get("promotion"),
            error=raw.get("error"),
            raw=raw,
        )

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow(Answer):
    """What one subject made of one row; `output` is None where nothing was generated."""

    position: int
    subject: str
    task: str
    row: int
    prompt: str | None
    output: str | None
    scores: Mapping[str, float]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("position", "subject", "task", "row", "prompt", "scores")
        output = raw.get("output")
        return cls(**{name: raw[name] for name in names}, output=output, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPage(Answer):
    """Some rows; `next_cursor` is None on the last page."""

    data: tuple[EvaluationRow, ...]
    next_cursor: int | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        data = tuple(map(EvaluationRow.from_json, raw["data"]))
        return cls(data=data, next_cursor=raw["next_cursor"], raw=raw)


class ProgressReader:
    """Mutable. Turns the bytes of an event stream into evaluations."""

    def __init__(self, response: httpx.Response) -> None:
        self._request = response.request
        self._events = EventParser()
        self._has_ended = False

    def feed(self, data: bytes) -> Iterator[Evaluation]:
        for event in self._events.feed(data):
            if event.data == END_OF_STREAM:
                self._has_ended = True
            else:
                with unreadable(self._request):
                    yield Evaluation.from_json(json.loads(event.data))

    def finish(self) -> None:
        """Raises ConnectionFailed when the stream was cut short."""
        if not self._has_ended:
            raise ConnectionFailed(f"the stream ended before {END_OF_STREAM}")


def upload_dataset(file: BinaryIO, name: str | None) -> Call[DataSet]:
    form = {} if name is None else {"name": name}
    files = {"file": ("rows.jsonl", file)}
    return Call("POST", DATASETS, _reader(DataSet.from_json), {"files": files, "data": form})


def datasets(limit: int) -> Call[tuple[DataSet, ...]]:
    read = _list_reader(DataSet.from_json)
    return Call("GET", DATASETS, read, {"params": {"limit": limit}})


def dataset(dataset_id: str) -> Call[DataSet]:
    return Call("GET", _path(DATASETS, dataset_id), _reader(DataSet.from_json), {})


def delete_dataset(dataset_id: str) -> Call[None]:
    return Call("DELETE", _path(DATASETS, dataset_id), lambda _: None, {})


def start(
    subjects: Sequence[Subject],
    data: Sequence[Json],
    metrics: Sequence[str],
    options: Mapping[str, Any],
) -> Call[Evaluation]:
    given = {name: value for name, value in options.items() if value is not None}
    named = {"subjects": list(subjects), "datasets": list(data), "metrics": list(metrics)}
    return Call("POST", EVALUATIONS, _reader(Evaluation.from_json), {"json": {**given, **named}})


def evaluation(evaluation_id: str) -> Call[Evaluation]:
    return Call("GET", _path(EVALUATIONS, evaluation_id), _reader(Evaluation.from_json), {})


def evaluations(limit: int) -> Call[tuple[Evaluation, ...]]:
    read = _list_reader(Evaluation.from_json)
    return Call("GET", EVALUATIONS, read, {"params": {"limit": limit}})


def cancel(evaluation_id: str) -> Call[Evaluation]:
    return Call("DELETE", _path(EVALUATIONS, evaluation_id), _reader(Evaluation.from_json), {})


def rows(
    evaluation_id: str, limit: int, after: int, subject: str | None, task: str | None
) -> Call[RowPage]:
    given = {"limit": limit, "after": after, "subject": subject, "task": task}
    params = {name: value for name, value in given.items() if value is not None}
    path = f"{_path(EVALUATIONS, evaluation_id)}/rows"
    return Call("GET", path, _reader(RowPage.from_json), {"params": params})


def events(evaluation_id: str) -> Call[None]:
    """Its answer is a stream, for ProgressReader."""
    return Call("GET", f"{_path(EVALUATIONS, evaluation_id)}/events", lambda _: None, {})


def _path(route: str, name: str) -> str:
    if name in ("", ".", ".."):
        raise InvalidArgument("id", f"{name!r} names nothing")
    return f"{route}/{quote(name, safe='')}"


def _reader(read: Callable[[Json], T]) -> Callable[[httpx.Response], T]:
    return lambda response: read(response.json())


def _list_reader(read: Callable[[Json], T]) -> Callable[[httpx.Response], tuple[T, ...]]:
    return lambda response: tuple(map(read, response.json()["data"]))

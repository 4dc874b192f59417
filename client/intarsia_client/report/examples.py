"""Rows on which subjects differ, as examples: what was asked, what was right, what each answered.

Subjects that answered alike are shown together. Texts are clipped, since a row may be a megabyte.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from intarsia_client.report.results import Results
from intarsia_client.types import Json

PER_TASK = 3
MAX_CHARS = 1200


class Text(NamedTuple):
    shown: str
    num_left_out: int


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is None where nothing was generated; `choice` is the likeliest one's index, from 0."""

    subjects: tuple[str, ...]
    text: Text | None
    choice: int | None
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Example:
    """`prompt` is None where the data set is there no more."""

    row: int
    prompt: Text | None
    targets: tuple[Text, ...]
    answers: tuple[Answer, ...]


def examples_of(rows: Iterable[Json], results: Results) -> dict[str, list[Example]]:
    """Task -> at most PER_TASK rows that all subjects answered, and not all alike.

    First those on which scores of the first metric are farthest apart, then in the order of rows.
    """
    asked: dict[str, dict[int, dict[str, Json]]] = {
        task: defaultdict(dict) for task in results.tasks
    }
    for row in rows:
        asked[row["task"]][row["row"]][row["subject"]] = row
    return {task: _chosen(found, results) for task, found in asked.items()}


def _chosen(found: Mapping[int, Mapping[str, Json]], results: Results) -> list[Example]:
    whole = [
        [by_subject[subject] for subject in results.subjects]
        for by_subject in found.values()
        if len(by_subject) == len(results.subjects)
    ]
    apart = [rows for rows in whole if len({_key(row) for row in rows}) > 1]
    metric = results.metrics[0]
    apart.sort(key=lambda rows: (-_spread(rows, metric), rows[0]["row"]))
    return [_example(rows) for rows in apart[:PER_TASK]]


def _spread(rows: Sequence[Json], metric: str) -> float:
    scores: list[float] = [row["scores"][metric] for row in rows]
    return max(scores) - min(scores)


def _key(row: Json) -> tuple[Any, ...]:
    return (row.get("output"), _choice(row), *row["scores"].items())


def _example(rows: Sequence[Json]) -> Example:
    alike: dict[tuple[Any, ...], list[Json]] = defaultdict(list)
    for row in rows:
        alike[_key(row)].append(row)
    first = rows[0]
    return Example(
        row=first["row"],
        prompt=None if first["prompt"] is None else _text(first["prompt"]),
        targets=tuple(map(_text, first["targets"] or ())),
        answers=tuple(map(_answer, alike.values())),
    )


def _answer(rows: Sequence[Json]) -> Answer:
    row = rows[0]
    return Answer(
        subjects=tuple(each["subject"] for each in rows),
        text=_text(row["output"]) if "output" in row else None,
        choice=_choice(row),
        scores=row["scores"],
    )


def _choice(row: Json) -> int | None:
    logprobs = [choice["logprob"] for choice in row.get("choices", ())]
    return logprobs.index(max(logprobs)) if logprobs else None


def _text(text: str) -> Text:
    return Text(text[:MAX_CHARS], max(0, len(text) - MAX_CHARS))

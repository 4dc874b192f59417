"""Rows to be scored: read from JSON, checked field by field, and told apart by digest.

A row is `{"prompt": text, "target": text or [texts]}`, where several targets are equally right, and
with `"choices": [texts]` each target is one of them, by its text or its index from 0. `id` and
`task` may stand beside them and mean nothing here. Knows no tokenizer: that a choice has no tokens
is for others to see.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from adapters_store.canonical import canonical_json
from adapters_store.evaluation.errors import DataSetRefused, RowRefused

MAX_ROWS = 100_000
MAX_ROW_BYTES = 1 << 20
MAX_CHOICES = MAX_TARGETS = 256
FIELDS = ("prompt", "target", "choices")
LABELS = ("id", "task")


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One question. Of several `targets` the one counts that an answer is most like."""

    prompt: str
    targets: tuple[str, ...]  # at least one; each one of `choices` where there are any
    choices: tuple[str, ...] = ()  # none, or at least two that differ


def parse_rows(rows: Sequence[Any]) -> tuple[EvalRow, ...]:
    """Rows that came as values. Raises RowRefused, or DataSetRefused for none or too many."""
    if not rows:
        raise DataSetRefused("there are no rows")
    if len(rows) > MAX_ROWS:
        raise DataSetRefused(f"there are more than {MAX_ROWS:,} rows")
    return tuple(parse_row(fields, number) for number, fields in enumerate(rows, start=1))


def parse_row(fields: Any, row: int) -> EvalRow:
    """The row number `row`, from 1. Raises RowRefused, which names the field at fault."""
    if not isinstance(fields, Mapping):
        raise RowRefused(row, None, "must be an object with prompt and target")
    for name in fields:
        if name not in (*FIELDS, *LABELS):
            raise RowRefused(row, str(name)[:100], f"is not known; there are {', '.join(FIELDS)}")
    parsed = EvalRow(
        prompt=_text(fields.get("prompt"), row, "prompt"),
        choices=(choices := _choices(fields.get("choices"), row)),
        targets=_targets(fields.get("target"), choices, row),
    )
    size = sum(len(text.encode()) for text in (parsed.prompt, *parsed.targets, *choices))
    if size > MAX_ROW_BYTES:
        raise RowRefused(row, None, f"has more than {MAX_ROW_BYTES:,} bytes")
    return parsed


def read_jsonl(stream: IO[bytes]) -> Iterator[EvalRow]:
    """The rows of a JSON lines file in UTF-8, one by one; never more of it in memory than a row.

    A row's number is that of its line; empty lines are passed over. Raises RowRefused, and at the
    end DataSetRefused if there were no rows, or on the way if there are too many.
    """
    found = 0
    for number, line in enumerate(_lines(stream), start=1):
        if line.isspace():
            continue
        if (found := found + 1) > MAX_ROWS:
            raise DataSetRefused(f"there are more than {MAX_ROWS:,} rows")
        yield parse_row(_parsed(line, number), number)
    if not found:
        raise DataSetRefused("there are no rows")


def rows_digest(rows: Iterable[EvalRow]) -> str:
    """`sha256:<hex>` of the rows in their order: of what they say, not of how it was written."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(canonical_json([row.prompt, row.targets, row.choices]) + b"\n")
    return f"sha256:{hasher.hexdigest()}"


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    limit = MAX_ROW_BYTES + 2  # of JSON, with the end of its line
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise RowRefused(number, None, f"has more than {MAX_ROW_BYTES:,} bytes")
        yield line


def _parsed(line: bytes, row: int) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowRefused(
            row, None, f"is not UTF-8: {error.reason} at byte {error.start}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RowRefused(row, None, f"is not JSON: {error}") from error


def _text(value: Any, row: int, field: str) -> str:
    if value is None:
        raise RowRefused(row, field, "is missing")
    if not isinstance(value, str):
        raise RowRefused(row, field, f"must be a text, not {type(value).__name__}")
    if not value.strip():
        raise RowRefused(row, field, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowRefused(row, field, f"has half a character at {error.start}") from error
    return value


def _choices(value: Any, row: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowRefused(row, "choices", "must be a list of texts")
    if not 2 <= len(value) <= MAX_CHOICES:
        raise RowRefused(row, "choices", f"must be 2 to {MAX_CHOICES} texts, not {len(value)}")
    choices = tuple(_text(each, row, f"choices[{i}]") for i, each in enumerate(value))
    if len(set(choices)) < len(choices):
        twice = next(i for i, each in enumerate(choices) if each in choices[:i])
        raise RowRefused(row, f"choices[{twice}]", "is there twice")
    return choices


def _targets(value: Any, choices: tuple[str, ...], row: int) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        return (_target(value, choices, row, "target"),)
    if not value:
        raise RowRefused(row, "target", "is an empty list")
    if len(value) > MAX_TARGETS:
        raise RowRefused(row, "target", f"must be at most {MAX_TARGETS} texts, not {len(value)}")
    return tuple(_target(each, choices, row, f"target[{i}]") for i, each in enumerate(value))


def _target(value: Any, choices: tuple[str, ...], row: int, field: str) -> str:
    if choices and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(choices):
            raise RowRefused(row, field, f"must be an index from 0 to {len(choices) - 1}")
        return choices[value]
    text = _text(value, row, field)
    if choices and text not in choices:
        raise RowRefused(row, field, "is none of the choices")
    return text

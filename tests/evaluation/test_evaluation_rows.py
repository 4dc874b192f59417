"""Rows are read one by one, and a bad one is refused by its number and field."""

import json
from collections.abc import Iterator
from io import BytesIO, RawIOBase
from typing import IO, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.evaluation import rows as module
from adapters_store.evaluation.errors import DataSetRefused, RowRefused
from adapters_store.evaluation.rows import (
    MAX_CHOICES,
    MAX_ROW_BYTES,
    MAX_ROWS,
    MAX_TARGETS,
    EvalRow,
    parse_row,
    parse_rows,
    read_jsonl,
    rows_digest,
)

GOOD = {"prompt": "2 + 2 =", "target": "4"}
CHOICES = ["3", "4"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        (GOOD, EvalRow("2 + 2 =", ("4",))),
        (GOOD | {"target": ["4", "four"]}, EvalRow("2 + 2 =", ("4", "four"))),
        (GOOD | {"id": 7, "task": "sums"}, EvalRow("2 + 2 =", ("4",))),
        (GOOD | {"choices": None}, EvalRow("2 + 2 =", ("4",))),
        (GOOD | {"choices": CHOICES}, EvalRow("2 + 2 =", ("4",), ("3", "4"))),
        (GOOD | {"choices": CHOICES, "target": 0}, EvalRow("2 + 2 =", ("3",), ("3", "4"))),
        (GOOD | {"choices": CHOICES, "target": [0, "4"]}, EvalRow("2 + 2 =", *[("3", "4")] * 2)),
        (GOOD | {"choices": ["1", "0"], "target": "0"}, EvalRow("2 + 2 =", ("0",), ("1", "0"))),
        ({"prompt": " ?\n", "target": "\ty "}, EvalRow(" ?\n", ("\ty ",))),
    ],
)
def test_texts_are_kept_as_they_are(fields: dict[str, Any], row: EvalRow) -> None:
    assert parse_row(fields, 1) == row


BAD: list[tuple[Any, str | None, str]] = [
    (None, None, "must be an object"),
    ([], None, "must be an object"),
    ("prompt", None, "must be an object"),
    ({}, "prompt", "is missing"),
    ({"prompt": "x"}, "target", "is missing"),
    ({"target": "x"}, "prompt", "is missing"),
    (GOOD | {"prompt": ""}, "prompt", "is empty"),
    (GOOD | {"prompt": 5}, "prompt", "must be a text, not int"),
    (GOOD | {"prompt": ["x"]}, "prompt", "must be a text, not list"),
    (GOOD | {"prompt": "\ud800"}, "prompt", "half a character"),
    (GOOD | {"target": " \n"}, "target", "is empty"),
    (GOOD | {"target": 4}, "target", "must be a text, not int"),
    (GOOD | {"target": {"a": 1}}, "target", "must be a text, not dict"),
    (GOOD | {"target": []}, "target", "is an empty list"),
    (GOOD | {"target": ["4"] * (MAX_TARGETS + 1)}, "target", "not 257"),
    (GOOD | {"target": ["4", ""]}, "target[1]", "is empty"),
    (GOOD | {"target": ["4", None]}, "target[1]", "is missing"),
    (GOOD | {"choices": "34"}, "choices", "must be a list"),
    (GOOD | {"choices": {"3": 1}}, "choices", "must be a list"),
    (GOOD | {"choices": []}, "choices", "not 0"),
    (GOOD | {"choices": ["4"]}, "choices", "not 1"),
    (GOOD | {"choices": [str(i) for i in range(MAX_CHOICES + 1)]}, "choices", "not 257"),
    (GOOD | {"choices": ["4", ""]}, "choices[1]", "is empty"),
    (GOOD | {"choices": ["4", 3]}, "choices[1]", "must be a text"),
    (GOOD | {"choices": ["4", "3", "4"]}, "choices[2]", "is there twice"),
    (GOOD | {"choices": ["3", "5"]}, "target", "is none of the choices"),
    (GOOD | {"choices": CHOICES, "target": 2}, "target", "from 0 to 1"),
    (GOOD | {"choices": CHOICES, "target": -1}, "target", "from 0 to 1"),
    (GOOD | {"choices": CHOICES, "target": True}, "target", "must be a text, not bool"),
    (GOOD | {"choices": CHOICES, "target": 1.0}, "target", "must be a text, not float"),
    (GOOD | {"choices": CHOICES, "target": [0, 2]}, "target[1]", "from 0 to 1"),
    (GOOD | {"choice": CHOICES}, "choice", "is not known"),
    (GOOD | {"prompt": "x" * MAX_ROW_BYTES}, None, "bytes"),
    (GOOD | {"target": ["é" * (MAX_ROW_BYTES // 2)]}, None, "bytes"),
]


@pytest.mark.parametrize(("fields", "field", "reason"), BAD)
def test_bad_row_is_named_by_number_and_field(fields: Any, field: str | None, reason: str) -> None:
    with pytest.raises(RowRefused) as caught:
        parse_row(fields, 12)
    assert (caught.value.row, caught.value.field) == (12, field)
    assert reason in caught.value.reason
    assert "row 12" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_row_of_the_limit_is_taken() -> None:
    parse_row({"prompt": "x" * (MAX_ROW_BYTES - 1), "target": "4"}, 1)


def test_rows_that_came_as_values_are_counted_from_one() -> None:
    assert parse_rows([GOOD]) == (EvalRow("2 + 2 =", ("4",)),)
    with pytest.raises(RowRefused, match=r"row 2, field target: is missing"):
        parse_rows([GOOD, {"prompt": "x"}])
    with pytest.raises(DataSetRefused, match="there are no rows"):
        parse_rows([])
    with pytest.raises(DataSetRefused, match="more than 100,000"):
        parse_rows([None] * (MAX_ROWS + 1))


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(content: bytes) -> list[EvalRow]:
    return list(read_jsonl(BytesIO(content)))


@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n", b"\n\n \n"])
def test_lines_may_end_as_they_like(end: bytes) -> None:
    assert read(lines(GOOD) + json.dumps(GOOD).encode() + end) == [EvalRow("2 + 2 =", ("4",))] * 2


BAD_LINES = {
    "wrong encoding": ('{"prompt": "é"}'.encode("latin-1"), 3, None, "is not UTF-8"),
    "other encoding": (json.dumps(GOOD).encode("utf-16"), 3, None, "is not UTF-8"),
    "no JSON": (b"prompt: x", 3, None, "is not JSON"),
    "cut": (b'{"prompt": "x", "tar', 3, None, "is not JSON"),
    "two on a line": (lines(GOOD)[:-1] + lines(GOOD), 3, None, "is not JSON"),
    "deep": (b"[" * 100_000, 3, None, "is not JSON"),
    "a number without end": (b"9" * 10_000, 3, None, "is not JSON"),
    "after an empty line": (b"\n" + lines({"prompt": "x"}), 4, "target", "is missing"),
    "too long": (b" " * (MAX_ROW_BYTES + 9) + lines(GOOD), 3, None, "bytes"),
    "byte order mark": (
        b"\xef\xbb\xbf" + lines(GOOD),
        3,
        None,
        "is not JSON: Unexpected UTF-8 BOM",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_named_by_its_number(name: str) -> None:
    content, row, field, reason = BAD_LINES[name]
    with pytest.raises(RowRefused) as caught:
        read(lines(GOOD, GOOD) + content)
    assert (caught.value.row, caught.value.field) == (row, field)
    assert reason in caught.value.reason
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_a_file_without_rows_is_refused(content: bytes) -> None:
    with pytest.raises(DataSetRefused, match="there are no rows"):
        read(content)


def test_too_many_rows_are_refused_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    reader = read_jsonl(BytesIO(lines(GOOD, GOOD, GOOD, None)))
    assert [next(reader), next(reader)] == [EvalRow("2 + 2 =", ("4",))] * 2
    with pytest.raises(DataSetRefused, match="more than 2 rows"):
        next(reader)


class EndlessLine(RawIOBase):
    """A row that never ends, and what was asked of it."""

    def __init__(self) -> None:
        self.most = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0
        self.most += size
        return b"x" * size


def test_a_long_line_is_never_read_whole() -> None:
    stream = EndlessLine()
    with pytest.raises(RowRefused, match="row 1: has more than"):
        next(read_jsonl(cast(IO[bytes], stream)))
    assert stream.most < 1.01 * MAX_ROW_BYTES


def test_rows_are_read_as_they_are_asked_for() -> None:
    def never() -> Iterator[bytes]:
        yield lines(GOOD)
        raise AssertionError("read on")

    class Once(BytesIO):
        parts = never()

        def readline(self, size: int | None = -1, /) -> bytes:
            return next(self.parts)

    assert next(read_jsonl(Once())) == EvalRow("2 + 2 =", ("4",))


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_what_was_written_is_read(rows: list[tuple[str, list[str]]]) -> None:
    written = [{"prompt": prompt, "target": targets} for prompt, targets in rows]
    plain = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in written).encode()
    found = [EvalRow(prompt, tuple(targets)) for prompt, targets in rows]
    assert read(lines(*written)) == read(plain) == list(parse_rows(written)) == found
    assert rows_digest(read(plain)) == rows_digest(found)


def test_digest_tells_rows_apart() -> None:
    rows = [
        [EvalRow("a", ("b",))],
        [EvalRow("a", ("b",)), EvalRow("a", ("b",))],
        [EvalRow("b", ("a",))],
        [EvalRow("a", ("b", "c"))],
        [EvalRow("a", ("b",), ("b", "c"))],
        [EvalRow("a", ("b",), ("c", "b"))],
        [EvalRow("a", ("b",)), EvalRow("c", ("d",))],
        [EvalRow("c", ("d",)), EvalRow("a", ("b",))],
    ]
    assert len({rows_digest(each) for each in rows}) == len(rows)
    frozen = "sha256:d2f0c4a6"  # the start of it: digests name data sets for good
    assert rows_digest(rows[0]).startswith(frozen)

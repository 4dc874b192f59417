"""The event-stream parser against the grammar, however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intarsia_client.sse import Event, EventParser

STREAMS = [
    pytest.param(b"", [], id="empty"),
    pytest.param(b"data: a", [], id="unclosed-line"),
    pytest.param(b"data: a\n", [], id="unclosed-event"),
    pytest.param(b"\n\n\n", [], id="blank-lines"),
    pytest.param(b"event: x\n\n", [], id="no-data-is-no-event"),
    pytest.param(b"data: a\n\n", [("message", "a")], id="lf"),
    pytest.param(b"data: a\r\n\r\n", [("message", "a")], id="crlf"),
    pytest.param(b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb")], id="crlf-between-data"),
    pytest.param(b"data: a\r\rdata: b\r\r", [("message", "a"), ("message", "b")], id="cr"),
    pytest.param(b"data: a\r\n\ndata: b\n\r\n", [("message", "a"), ("message", "b")], id="mixed"),
    pytest.param(b"data\n\n", [("message", "")], id="field-without-colon"),
    pytest.param(b"data:\n\n", [("message", "")], id="empty-data"),
    pytest.param(b"data:  a\n\n", [("message", " a")], id="one-space-is-dropped"),
    pytest.param(b"data: a: b\n\n", [("message", "a: b")], id="later-colons-belong-to-the-value"),
    pytest.param(b"data: a\ndata: b\ndata:\n\n", [("message", "a\nb\n")], id="many-data-lines"),
    pytest.param(b": ping\n\n:\ndata: a\n\n", [("message", "a")], id="comments"),
    pytest.param(b"event: e\ndata: a\n\ndata: b\n\n", [("e", "a"), ("message", "b")], id="named"),
    pytest.param(b"id: 1\nretry: 9\nother: x\ndata: a\n\n", [("message", "a")], id="skipped"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [("message", "a")], id="byte-order-mark"),
    pytest.param("data: é€𝄞\n\n".encode(), [("message", "é€𝄞")], id="utf-8"),
    pytest.param(
        "data: a\u2028b\u0085c\u000bd\n\n".encode(),
        [("message", "a\u2028b\u0085c\u000bd")],
        id="other-line-separators-are-text",
    ),
    pytest.param(b"data: \xff\n\n", [("message", "\ufffd")], id="broken-utf-8-is-replaced"),
]


def parse(chunks: list[bytes]) -> list[Event]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_stream_gives_its_events_whole_and_byte_by_byte(
    stream: bytes, events: list[tuple[str, str]]
) -> None:
    assert parse([stream]) == events
    assert parse([stream[i : i + 1] for i in range(len(stream))]) == events


PIECES = [
    "data: a",
    "data",
    ":",
    " ",
    "event",
    "\n",
    "\r",
    "\r\n",
    "é",
    "𝄞",
    "x",
    "\ufeff",
]


@given(st.lists(st.sampled_from(PIECES)), st.lists(st.integers(min_value=0)))
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    pieces: list[str], places: list[int]
) -> None:
    stream = "".join(pieces).encode()
    cuts = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    chunks = [b"", *(stream[a:b] for a, b in pairwise(cuts)), b""]
    assert parse(chunks) == parse([stream])


ONE_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(st.lists(ONE_LINE), st.sampled_from(["\n", "\r", "\r\n"]))
def test_data_is_read_as_it_was_written(lines: list[str], end: str) -> None:
    stream = "".join(f"data: {line}{end}" for line in lines) + end
    expected = [Event("message", "\n".join(lines))] if lines else []
    assert parse([stream.encode()]) == expected

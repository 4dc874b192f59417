"""An incremental parser of `text/event-stream`. Knows bytes and events, nothing of HTTP or JSON.

Follows the event-stream grammar of the HTML standard, apart from reconnection: `id` and `retry`
are skipped, because a generation cannot be resumed.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

LINE_END = re.compile(rb"\r\n|\r|\n")
BYTE_ORDER_MARK = "\ufeff"


class Event(NamedTuple):
    """One event; the lines of its data are joined by newlines."""

    name: str
    data: str


class EventParser:
    """Mutable. Bytes may be cut anywhere: the events depend only on their concatenation.

    An event that its blank line has not closed yet is held back.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._at_start = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes; consume them before the next call."""
        for line in self._lines(data):
            event = self._read(line)
            if event is not None:
                yield event

    def _lines(self, data: bytes) -> Iterator[str]:
        if not data:
            return
        if self._after_cr:
            data = data.removeprefix(b"\n")  # the second half of a CRLF that was cut in two
        self._after_cr = data.endswith(b"\r")
        first, *rest = LINE_END.split(data)
        self._line += first
        for start_of_next in rest:
            yield self._finish_line()
            self._line += start_of_next

    def _finish_line(self) -> str:
        line = self._line.decode("utf-8", "replace")  # as the standard has it
        self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        return line

    def _read(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")  # a comment is a line with an empty name
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "event":
            self._name = value.removeprefix(" ")
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data = "", []
        return event

"""A `multipart/form-data` body as it comes: its one file straight to a file, its texts to memory.

Nothing is kept twice and nothing beyond the limits is kept at all. Knows nothing of adapters.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from adapters_store.errors import AdapterTooLarge
from server.errors import BadRequest, UnsupportedMedia, shown

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MEDIA_TYPE = "multipart/form-data"
FILE = "file"
MAX_TEXT_BYTES = 1 << 20


def boundary_of(content_type: str | None) -> bytes:
    """What separates the parts; UnsupportedMedia for another kind of body, BadRequest without."""
    media_type, options = parse_options_header(content_type)
    if media_type != MEDIA_TYPE.encode():
        raise UnsupportedMedia(content_type, MEDIA_TYPE)
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadRequest("content-type: the boundary of the form is missing")
    return boundary


class FormReader:
    """Mutable. Reads one form with a file called `file` and the given text fields, each once.

    Writes the file to `target`, never more than `max_file_bytes` of it.
    """

    def __init__(
        self, boundary: bytes, target: BinaryIO, text_fields: Collection[str], max_file_bytes: int
    ) -> None:
        self._target, self._max_file_bytes = target, max_file_bytes
        self._text_fields = text_fields
        self._texts: dict[str, bytearray] = {}
        self._file_bytes: int | None = None
        self._part: str | None = None  # the field that the part under way belongs to
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._has_ended = False
        self._parser = self._make_parser(boundary)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body. BadRequest, AdapterTooLarge; OSError of the disk."""
        with _form_errors():
            self._parser.write(data)

    def finish(self) -> dict[str, str]:
        """The text fields, once the body has come to its end. BadRequest if it is not whole."""
        if not self._has_ended:
            raise BadRequest("the form ends before its last boundary")
        if self._file_bytes is None:
            raise BadRequest(f"the form field {FILE!r} is missing", FILE)
        return {name: _decoded(name, text) for name, text in self._texts.items()}

    def _make_parser(self, boundary: bytes) -> MultipartParser:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_header,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }
        with _form_errors():
            return MultipartParser(boundary, callbacks)

    def _begin_part(self) -> None:
        self._disposition = b""

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _decoded("name of a field", options.get(b"name", b""))
        is_file = b"filename" in options
        self._check_field(name, is_file)
        self._part = name
        if is_file:
            self._file_bytes = 0
        else:
            self._texts[name] = bytearray()

    def _check_field(self, name: str, is_file: bool) -> None:
        if name != FILE and name not in self._text_fields:
            raise BadRequest(f"unknown form field {shown(name)}", name[:100])
        if name in self._texts or (name == FILE and self._file_bytes is not None):
            raise BadRequest(f"the form field {name!r} is there twice", name)
        if is_file != (name == FILE):
            expected = "a file" if name == FILE else "a field of text, not a file"
            raise BadRequest(f"the form field {name!r} must be {expected}", name)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None, "data comes after its part's headers"
        if self._part == FILE:
            self._write(memoryview(data)[start:end])
            return
        text = self._texts[self._part]
        text += data[start:end]
        if len(text) > MAX_TEXT_BYTES:
            message = f"the form field {self._part!r} has more than {MAX_TEXT_BYTES} bytes"
            raise BadRequest(message, self._part)

    def _write(self, data: memoryview) -> None:
        assert self._file_bytes is not None, "data of a file comes after its headers"
        self._file_bytes += len(data)
        if self._file_bytes > self._max_file_bytes:
            raise AdapterTooLarge("bytes", self._file_bytes, self._max_file_bytes)
        self._target.write(data)

    def _end(self) -> None:
        self._has_ended = True


@contextmanager
def _form_errors() -> Iterator[None]:
    """What the parser raises, headers beyond its own limits among it, as BadRequest."""
    try:
        yield
    except FormParserError as error:
        raise BadRequest(f"the form cannot be read: {error}") from error


def _decoded(field: str, text: bytes | bytearray) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{field}: is not UTF-8: {error}", field) from error

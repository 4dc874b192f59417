"""What every kind of source has in common: inner paths, and copying that never writes too much.

Knows no kind of source.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from adapters_store.errors import AdapterTooLarge, SourceUnavailable, StoreError

CHUNK_BYTES = 1 << 20
# No empty part, no `.` or `..`, nothing hidden, nothing that a driver reads as more than a name.
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]{0,254}"
_INNER = re.compile(rf"{_PART}(?:/{_PART}){{0,31}}", re.ASCII)


class Source(Protocol):
    """One place. A path inside has the form of `inner`, or is empty: the place itself."""

    def locate(self, asked: str) -> str | None:
        """The path inside that a client's text stands for; None if it is for another place."""

    def copy(self, path: str, target: Path, max_bytes: int) -> bool:
        """Write the file at `path` to `target`, or answer False if there is none.

        Raises AdapterTooLarge for one of more than `max_bytes`, and SourceUnavailable.
        """


def inner(text: str) -> str | None:
    """`text` if it is a plain relative path that leads nowhere else."""
    return text if _INNER.fullmatch(text) else None


def below(root: str, asked: str) -> str | None:
    """The path inside `root` (which ends in no slash) that `asked` names."""
    if asked in (root, f"{root}/"):
        return ""
    start = f"{root}/"
    return inner(asked.removeprefix(start)) if asked.startswith(start) else None


def joined(path: str, name: str) -> str:
    """`name` in the directory `path`, which may be the place itself."""
    return f"{path}/{name}" if path else name


def write_bounded(chunks: Iterable[bytes], target: Path, max_bytes: int) -> None:
    """AdapterTooLarge as soon as more comes than may."""
    written = 0
    with target.open("wb") as file:
        for chunk in chunks:
            written += len(chunk)
            check_size(written, max_bytes)
            file.write(chunk)


def check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise AdapterTooLarge("bytes", num_bytes, max_bytes)


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


@contextmanager
def unavailable(url: str) -> Iterator[None]:
    """What a driver raises, as SourceUnavailable: each lets exceptions of other packages through,
    so they cannot be named here."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise SourceUnavailable(url, f"{type(error).__name__}: {error}") from error

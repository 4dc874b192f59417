"""Adapter files on this machine, on their way out and in. Knows nothing of HTTP."""

import io
import os
import secrets
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from intarsia_client.errors import InvalidArgument

PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
UPLOAD_SUFFIXES = (".safetensors", ".zip", ".tar.gz")

OnProgress = Callable[[int, int], None]  # (bytes read, bytes in all)


@contextmanager
def outgoing(path: Path, on_progress: OnProgress | None) -> Iterator[BinaryIO]:
    """The adapter at `path`, open for reading; its `name` is the file name to send.

    A PEFT directory becomes a temporary `.tar.gz` that holds PEFT_FILES and nothing else.
    Raises InvalidArgument for what cannot be an adapter.
    """
    with tempfile.TemporaryDirectory(prefix="intarsia-") as scratch:
        source = _packed(path, Path(scratch)) if path.is_dir() else _checked(path)
        with source.open("rb") if on_progress is None else _Watched(source, on_progress) as file:
            yield file


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise InvalidArgument("path", f"{path} is neither a file nor a directory")
    if not path.name.endswith(UPLOAD_SUFFIXES):
        raise InvalidArgument("path", f"{path} is none of {', '.join(UPLOAD_SUFFIXES)}")
    return path


def _packed(directory: Path, scratch: Path) -> Path:
    missing = [name for name in PEFT_FILES if not (directory / name).is_file()]
    if missing:
        raise InvalidArgument("path", f"{directory} has no {' and no '.join(missing)}")
    archive = scratch / f"{directory.resolve().name}.tar.gz"
    # Level 0: trained weights hardly compress, and the server wants the framing only.
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for name in PEFT_FILES:
            tar.add((directory / name).resolve(), arcname=name)
    return archive


class _Watched(io.BufferedReader):
    """A file that reports how much of it has been read."""

    def __init__(self, path: Path, on_progress: OnProgress) -> None:
        super().__init__(io.FileIO(path))
        self._size, self._on_progress = path.stat().st_size, on_progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._on_progress(self.tell(), self._size)
        return data


@contextmanager
def incoming(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it appears at `path`, replacing what was there, only when all went well."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

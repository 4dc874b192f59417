"""`dir:/path`: a directory of this machine. No link, however it is placed, leads out of it."""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from adapters_store.sources.source import (
    below,
    check_size,
    chunks_of,
    inner,
    unavailable,
    write_bounded,
)

SCHEME = "dir:"
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})


class DirectorySource:
    """Asked for as `dir:inner/path`, or by the absolute path that the operator allowed."""

    def __init__(self, path: str) -> None:
        """Raises ValueError unless `path` is an absolute one of a directory."""
        if not path.startswith("/") or not Path(path).is_dir():
            raise ValueError(f"{SCHEME}{path}: there is no such directory; give an absolute path")
        self._given = path.rstrip("/")
        self._root = Path(path).resolve()

    def locate(self, asked: str) -> str | None:
        path = asked.removeprefix(SCHEME)
        if path.startswith("/"):
            return below(self._given, path)
        return inner(path) if asked.startswith(SCHEME) else None

    def copy(self, path: str, target: Path, max_bytes: int) -> bool:
        with unavailable(f"{SCHEME}{self._given}"):
            descriptor = self._open(path)
            if descriptor is None:
                return False
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                os.close(descriptor)
                return False
            with open(descriptor, "rb") as file:
                check_size(status.st_size, max_bytes)
                write_bounded(chunks_of(file), target, max_bytes)
        return True

    def _open(self, path: str) -> int | None:
        """A descriptor of what is at `path` inside of the directory; None if nothing is.

        Links are followed first, on paper; what they lead to is then opened part by part without
        following any, so that nothing can be put in between.
        """
        try:
            real = (self._root / path).resolve(strict=True)
            if not real.is_relative_to(self._root):
                return None
            return _open_without_links(self._root, real.relative_to(self._root).parts)
        except RuntimeError:  # a loop of links, as pathlib tells it
            return None
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise


def _open_without_links(root: Path, parts: Sequence[str]) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not keep us waiting
    descriptor = os.open(root, flags | os.O_DIRECTORY)
    for part in parts:
        outer = descriptor
        try:
            descriptor = os.open(part, flags, dir_fd=outer)
        finally:
            os.close(outer)
    return descriptor

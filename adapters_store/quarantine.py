"""Directories for what nobody has checked yet: each is gone with whoever made it.

Owns their life, in this process and across its death. Knows nothing of what is written into them.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Quarantine:
    """Private directories under `root`, which may be shared with other processes.

    A living owner holds a lock on its directory; the system drops it when the owner dies, however
    that happens, and `sweep` removes what has no owner.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A new, empty directory, removed with all that is in it when the context ends."""
        path, lock = self._make()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def sweep(self) -> int:
        """Remove the directories of owners that died; how many."""
        return sum(_remove_if_ownerless(path) for path in list(self.root.iterdir()))

    def _make(self) -> tuple[Path, int]:
        """A directory and the lock on it. One that was swept before it was locked is made anew."""
        while True:
            path = self.root / uuid.uuid4().hex
            path.mkdir()
            lock = _lock(path)
            if lock is None:
                continue
            if path.exists():
                return path, lock
            os.close(lock)


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock of `path`; None if it is gone or held by another."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_if_ownerless(path: Path) -> bool:
    lock = _lock(path)
    if lock is None:
        return False
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
    return True

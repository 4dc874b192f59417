"""Names for workers that share a folder: each has its own while it lives, and gets it back after.

A name is a number whose file the worker holds locked. The system lets go of a lock when its process
dies, however it dies, so a name that can be locked is nobody's. Knows nothing of jobs.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout


class WorkerSlots:
    """One worker's view of the slots in `folder`; `prefix` keeps names of other folders apart."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._held: FileLock | None = None

    def take(self) -> str:
        """The name of the first slot that nobody holds, held until `release`."""
        assert self._held is None, "one slot each"
        self._folder.mkdir(parents=True, exist_ok=True)
        number, self._held = next(found for found in map(self._locked, count()) if found)
        return self._name(number)

    def release(self) -> None:
        """Give the slot back; nothing if none is held."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def abandoned(self) -> Iterator[str]:
        """The other names that were given and that nobody holds, each held until the next."""
        for path in sorted(self._folder.glob("*.lock")):
            if found := self._locked(int(path.stem)):
                number, lock = found
                try:
                    yield self._name(number)
                finally:
                    lock.release()

    def _locked(self, number: int) -> tuple[int, FileLock] | None:
        """The slot, now ours; None if somebody holds it."""
        lock = FileLock(self._folder / f"{number}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return number, lock

    def _name(self, number: int) -> str:
        return f"{self._prefix}:{number}"

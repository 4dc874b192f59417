"""Stored adapter files, by content: `sha256/ab/cdef....safetensors` under one root.

A file appears whole or not at all, and its name is the digest of what it holds. Knows nothing of
names and versions.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.errors import AdapterNotFound, AdapterRefused, BlobCorrupt
from adapters_store.names import check_digest


class BlobStore:
    """Adapter files under `root`, which may be shared with other processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Hold back every other holder, in any process.

        For those who change blobs together with the rows that name them: else one may delete
        the file that another has just found already there.
        """
        with FileLock(self.root / "lock"):
            yield

    def put(self, adapter: SparseAdapter) -> int:
        """Store `adapter` unless it is already there whole; bytes on disk.

        When this returns, the file survives a loss of power.
        """
        path = self.path(adapter.digest)
        if not self._is_whole(adapter.digest):
            self._write(adapter, path)
        return path.stat().st_size

    def path(self, digest: str) -> Path:
        """Where the adapter with this digest is, or would be; InvalidName for anything else."""
        check_digest(digest)
        algorithm, _, value = digest.partition(":")
        return self.root / algorithm / value[:2] / f"{value[2:]}.safetensors"

    def load(self, digest: str) -> SparseAdapter:
        """The adapter, verified: AdapterNotFound, or BlobCorrupt if it is not what was stored."""
        path = self.path(digest)
        try:
            adapter = files.read(path)
        except FileNotFoundError as error:
            raise AdapterNotFound(digest) from error
        except AdapterRefused as error:
            raise BlobCorrupt(digest, f"none: {error}") from error
        if adapter.digest != digest:
            raise BlobCorrupt(digest, adapter.digest)
        return adapter

    def delete(self, digest: str) -> int:
        """Remove the adapter; bytes freed, 0 if it was not there."""
        path = self.path(digest)
        try:
            num_bytes = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        _sync(path.parent)
        return num_bytes

    def sweep(self) -> int:
        """Remove the files of writers that died; how many. Holds the guard."""
        with self.guard():
            leftovers = list(self._incoming.iterdir())
            for path in leftovers:
                path.unlink()
        return len(leftovers)

    def _is_whole(self, digest: str) -> bool:
        try:
            self.load(digest)
        except (AdapterNotFound, BlobCorrupt):
            return False
        return True

    def _write(self, adapter: SparseAdapter, path: Path) -> None:
        temporary = self._incoming / uuid.uuid4().hex
        try:
            files.write(adapter, temporary)
            _sync(temporary)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        for directory in (path.parent, path.parent.parent, self.root):
            _sync(directory)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

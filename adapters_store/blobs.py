"""Stored adapter files, by content: `sha256/ab/cdef....safetensors` under one root.

A file appears whole or not at all, and its name is the digest of what it holds. Here is what every
store of blobs does, and the one in a local directory. Knows nothing of names and versions.
"""

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.each import Each, in_turn
from adapters_store.errors import AdapterNotFound, AdapterRefused, BlobCorrupt
from adapters_store.names import check_digest
from adapters_store.quarantine import Quarantine

ALGORITHM = "sha256"


class BlobStore(Protocol):
    """Adapter files by digest. Every method raises InvalidName for what is no digest.

    Who puts or deletes one that a row may name holds the registry's guard of its digest.
    """

    def put(self, adapter: SparseAdapter) -> int:
        """Store `adapter` unless it is already there whole; bytes of its file.

        When this returns, the file survives a loss of power.
        """

    def load(self, digest: str, each: Each = in_turn) -> SparseAdapter:
        """The adapter, verified: AdapterNotFound, or BlobCorrupt if it is not what was stored.

        `each` delta is read by itself.
        """

    def open(self, digest: str) -> BinaryIO:
        """The file as it is, for the caller to close; it can be read to its end whoever deletes
        it meanwhile. AdapterNotFound."""

    def delete(self, digest: str) -> int:
        """Remove the adapter; bytes freed, 0 if it was not there."""


class LocalBlobs:
    """Adapter files under `root`, which may be shared with other processes.

    `quarantine` is on the same file system.
    """

    def __init__(self, root: Path, quarantine: Quarantine) -> None:
        self.root = root
        self._quarantine = quarantine
        self._durable: set[Path] = set()
        (root / ALGORITHM).mkdir(parents=True, exist_ok=True)
        for directory in (root, root.parent):
            _sync(directory)

    def put(self, adapter: SparseAdapter) -> int:
        path = self.path(adapter.digest)
        if not self._is_whole(adapter.digest):
            self._make_durable(path.parent)
            with self._quarantine.directory() as directory:
                file = directory / "blob"
                files.write(adapter, file)
                _sync(file)
                self.adopt(file, adapter.digest)
            _sync(path.parent)
        return path.stat().st_size

    def adopt(self, file: Path, digest: str) -> None:
        """Make `file`, on the same file system, the blob of `digest`."""
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        file.replace(path)

    def path(self, digest: str) -> Path:
        """Where the adapter with this digest is, or would be."""
        return self.root / blob_name(digest)

    def load(self, digest: str, each: Each = in_turn) -> SparseAdapter:
        try:
            return read_verified(self.path(digest), digest, each)
        except FileNotFoundError as error:
            raise AdapterNotFound(digest) from error

    def open(self, digest: str) -> BinaryIO:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise AdapterNotFound(digest) from error

    def delete(self, digest: str) -> int:
        path = self.path(digest)
        try:
            num_bytes = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        _sync(path.parent)
        return num_bytes

    def _make_durable(self, directory: Path) -> None:
        """Make a directory of blobs that survives a loss of power, whoever else has made it."""
        if directory not in self._durable:
            directory.mkdir(exist_ok=True)
            _sync(directory.parent)
            self._durable.add(directory)

    def _is_whole(self, digest: str) -> bool:
        try:
            self.load(digest)
        except (AdapterNotFound, BlobCorrupt):
            return False
        return True


def blob_name(digest: str) -> str:
    """The path of a blob under its store's root; InvalidName for what is no digest."""
    check_digest(digest)
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}/{value[:2]}/{value[2:]}.safetensors"


def read_verified(path: Path, digest: str, each: Each = in_turn) -> SparseAdapter:
    """The adapter in `path`; BlobCorrupt unless it is the one of `digest`. FileNotFoundError."""
    try:
        adapter = files.read(path, each)
    except AdapterRefused as error:
        raise BlobCorrupt(digest, f"none: {error}") from error
    if adapter.digest != digest:
        raise BlobCorrupt(digest, adapter.digest)
    return adapter


def _sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

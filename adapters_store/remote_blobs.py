"""Blobs in an object store (`s3://bucket/prefix`), with a local cache of bounded size.

An object store makes a file appear whole, at once and durably; the digest is verified on this
side, whenever an adapter is loaded. Knows nothing of names and versions.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import fsspec

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.blobs import BlobStore, LocalBlobs, blob_name, read_verified
from adapters_store.each import Each, in_turn
from adapters_store.errors import AdapterNotFound, BlobCorrupt, BlobsUnavailable
from adapters_store.quarantine import Quarantine


def open_blobs(
    url: str | None, directory: Path, quarantine: Quarantine, cache_bytes: int
) -> BlobStore:
    """The blobs at `url`, or in `directory` when None; BlobsUnavailable if they cannot be had.

    Blobs that are far away are cached in `directory`, `cache_bytes` of them at most.
    """
    if url is None:
        return LocalBlobs(directory, quarantine)
    blobs = RemoteBlobs(url, LocalBlobs(directory, quarantine), quarantine, cache_bytes)
    blobs.check()
    return blobs


class RemoteBlobs:
    """Adapter files under an fsspec URL. `quarantine` is on the file system of `cache`."""

    def __init__(
        self, url: str, cache: LocalBlobs, quarantine: Quarantine, cache_bytes: int
    ) -> None:
        self._url = url
        with _driver_errors(url):
            # Other replicas change the bucket, so no listing may be remembered.
            self._remote, root = fsspec.url_to_fs(url, use_listings_cache=False)
        self._root: str = root.rstrip("/")
        self._cache = cache
        self._quarantine = quarantine
        self._cache_bytes = cache_bytes

    def check(self) -> None:
        """Raise BlobsUnavailable unless the bucket can be read."""
        bucket = self._root.partition("/")[0]
        try:
            with _driver_errors(self._url):
                self._remote.ls(bucket, detail=False)
        except FileNotFoundError as error:
            raise BlobsUnavailable(self._url, f"there is no {bucket!r}") from error

    def put(self, adapter: SparseAdapter) -> int:
        """Always sent: what lies there under this name need not be whole."""
        with self._quarantine.directory() as directory:
            file = directory / "blob"
            files.write(adapter, file)
            with _driver_errors(self._url):
                self._remote.put_file(str(file), self._path(adapter.digest))
            num_bytes = file.stat().st_size
            self._keep(file, adapter.digest)
        return num_bytes

    def load(self, digest: str, each: Each = in_turn) -> SparseAdapter:
        try:
            adapter = self._cache.load(digest, each)
        except (AdapterNotFound, BlobCorrupt):
            with self._fetched(digest) as file:
                return read_verified(file, digest, each)
        self._touch(digest)
        return adapter

    def open(self, digest: str) -> BinaryIO:
        try:
            return self._cache.open(digest)
        except AdapterNotFound:
            with self._fetched(digest) as file:
                return file.open("rb")

    def delete(self, digest: str) -> int:
        path = self._path(digest)
        self._cache.delete(digest)
        try:
            with _driver_errors(self._url):
                num_bytes: int = self._remote.size(path)
                self._remote.rm_file(path)
        except FileNotFoundError:
            return 0
        return num_bytes

    def _path(self, digest: str) -> str:
        return f"{self._root}/{blob_name(digest)}"

    @contextmanager
    def _fetched(self, digest: str) -> Iterator[Path]:
        """The blob as a local file, kept in the cache when the context ends well."""
        with self._quarantine.directory() as directory:
            file = directory / "blob"
            try:
                with _driver_errors(self._url):
                    self._remote.get_file(self._path(digest), str(file))
            except FileNotFoundError as error:
                raise AdapterNotFound(digest) from error
            yield file
            self._keep(file, digest)

    def _keep(self, file: Path, digest: str) -> None:
        """Move `file` into the cache, and the longest unused out of it while it is too large."""
        self._cache.adopt(file, digest)
        self._touch(digest)
        cached = [(path, stat) for path in self._cached() if (stat := _stat(path)) is not None]
        total = sum(stat.st_size for _, stat in cached)
        for path, stat in sorted(cached, key=lambda entry: entry[1].st_mtime_ns):
            if total <= self._cache_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def _cached(self) -> Iterator[Path]:
        return self._cache.root.glob("sha256/*/*.safetensors")

    def _touch(self, digest: str) -> None:
        """Note that the cached copy is in use; another thread may have just dropped it."""
        with suppress(FileNotFoundError):
            os.utime(self._cache.path(digest))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


@contextmanager
def _driver_errors(url: str) -> Iterator[None]:
    """What a driver raises, as BlobsUnavailable. Each has exceptions of its own, and s3fs lets
    those of botocore and aiohttp through, so they cannot be named here."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise BlobsUnavailable(url, f"{type(error).__name__}: {error}") from error

"""Blobs: whole or absent, named by what they hold, safe beside other writers."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_factories import random_adapter

from adapters_store import files
from adapters_store.blobs import BlobStore
from adapters_store.errors import AdapterNotFound, BlobCorrupt, InvalidName


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def _incoming(blobs: BlobStore) -> list[Path]:
    return list((blobs.root / "incoming").iterdir())


def test_stored_adapter_loads_with_its_digest(blobs: BlobStore) -> None:
    adapter = random_adapter()
    num_bytes = blobs.put(adapter)
    path = blobs.path(adapter.digest)
    assert blobs.load(adapter.digest).digest == adapter.digest
    assert path.stat().st_size == num_bytes == files.num_bytes(adapter)
    hex_digits = adapter.digest.removeprefix("sha256:")
    assert path.relative_to(blobs.root).as_posix() == (
        f"sha256/{hex_digits[:2]}/{hex_digits[2:]}.safetensors"
    )
    assert not _incoming(blobs)


def test_storing_again_keeps_the_file(blobs: BlobStore) -> None:
    adapter = random_adapter()
    first = blobs.put(adapter)
    inode = blobs.path(adapter.digest).stat().st_ino
    assert blobs.put(adapter) == first
    assert blobs.path(adapter.digest).stat().st_ino == inode


def test_corrupt_blob_is_told_and_replaced_when_stored_again(blobs: BlobStore) -> None:
    adapter, other = random_adapter(1), random_adapter(2)
    blobs.put(adapter)
    files.write(other, blobs.path(adapter.digest))
    with pytest.raises(BlobCorrupt) as caught:
        blobs.load(adapter.digest)
    assert (caught.value.digest, caught.value.found) == (adapter.digest, other.digest)
    blobs.path(adapter.digest).write_bytes(b"half")
    with pytest.raises(BlobCorrupt, match="not a whole safetensors file"):
        blobs.load(adapter.digest)
    blobs.put(adapter)
    assert blobs.load(adapter.digest).digest == adapter.digest


def test_deleting_answers_the_bytes_freed(blobs: BlobStore) -> None:
    adapter = random_adapter()
    num_bytes = blobs.put(adapter)
    assert blobs.delete(adapter.digest) == num_bytes
    assert blobs.delete(adapter.digest) == 0
    with pytest.raises(AdapterNotFound, match=adapter.digest):
        blobs.load(adapter.digest)


@pytest.mark.parametrize("digest", ["", "sha256:../../x", f"sha256:{'A' * 64}", f"md5:{'0' * 64}"])
def test_what_is_no_digest_never_reaches_the_file_system(blobs: BlobStore, digest: str) -> None:
    for use in (blobs.path, blobs.load, blobs.delete):
        with pytest.raises(InvalidName, match="digest"):
            use(digest)


def test_sweep_removes_what_dead_writers_left(blobs: BlobStore) -> None:
    adapter = random_adapter()
    blobs.put(adapter)
    (blobs.root / "incoming" / "left").write_bytes(b"half")
    assert (blobs.sweep(), blobs.sweep()) == (1, 0)
    assert blobs.load(adapter.digest).digest == adapter.digest


def test_failed_write_leaves_nothing(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        blobs.put(random_adapter())
    assert not _incoming(blobs)
    assert not blobs.path(random_adapter().digest).exists()


def test_file_is_on_disk_before_it_has_its_name(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name is on disk before `put` returns."""
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def logged_sync(descriptor: int) -> None:
        events.append("directory" if os.path.isdir(f"/dev/fd/{descriptor}") else "file")
        sync(descriptor)

    def logged_replace(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", logged_sync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    blobs.put(random_adapter())
    assert events == ["file", "rename", "directory", "directory", "directory"]


def test_many_writers_of_one_adapter_agree(blobs: BlobStore) -> None:
    adapters = [random_adapter() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(blobs.put, adapters))
    assert sizes == {files.num_bytes(adapters[0])}
    assert blobs.load(adapters[0].digest).digest == adapters[0].digest
    assert not _incoming(blobs)

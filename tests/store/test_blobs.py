"""Blobs: whole or absent, named by what they hold, safe beside other writers; near and far."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from s3_server import make_bucket, s3_server
from store_factories import random_adapter

from adapters_store import files
from adapters_store.blobs import BlobStore, LocalBlobs
from adapters_store.errors import AdapterNotFound, BlobCorrupt, BlobsUnavailable, InvalidName
from adapters_store.quarantine import Quarantine
from adapters_store.remote_blobs import open_blobs

CACHE_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where blobs are kept: what a test may do to the stored bytes behind the store's back."""

    directory: Path
    bucket: str | None
    endpoint: str

    def open(self, replica: str = "a", cache_bytes: int = CACHE_BYTES) -> BlobStore:
        """The store as a process with a data directory of its own sees it, unless it is local."""
        if self.bucket is None:
            return LocalBlobs(self.directory, Quarantine(self.directory / "quarantine"))
        directory = self.directory / replica
        url = f"s3://{self.bucket}/some/prefix"
        return open_blobs(url, directory, Quarantine(directory / "quarantine"), cache_bytes)

    def write(self, digest: str, content: bytes) -> None:
        """Put other bytes in a blob's place, wherever it is kept or cached."""
        for path in self.copies(digest):
            path.write_bytes(content)
        if self.bucket is not None:
            self._s3.put_object(Bucket=self.bucket, Key=_key(digest), Body=content)

    def stored(self) -> dict[str, int]:
        """Size by path of everything that lies where blobs are kept."""
        if self.bucket is None:
            found = [path for path in self.directory.rglob("*.safetensors") if path.is_file()]
            return {str(path.relative_to(self.directory)): path.stat().st_size for path in found}
        listed = self._s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {item["Key"].removeprefix("some/prefix/"): item["Size"] for item in listed}

    def copies(self, digest: str) -> list[Path]:
        return list(self.directory.rglob(f"{digest[9:]}.safetensors"))

    def leftovers(self) -> list[Path]:
        """Files of writers, finished or not."""
        return [path for folder in self.directory.rglob("quarantine") for path in folder.iterdir()]

    @property
    def _s3(self) -> Any:
        return boto3.client("s3", endpoint_url=self.endpoint)


def _name(digest: str) -> str:
    value = digest.removeprefix("sha256:")
    return f"sha256/{value[:2]}/{value[2:]}.safetensors"


def _key(digest: str) -> str:
    return f"some/prefix/{_name(digest)}"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, endpoint: str) -> Place:
    bucket = make_bucket(endpoint) if request.param == "s3" else None
    return Place(tmp_path / "blobs", bucket, endpoint)


@pytest.fixture
def remote(tmp_path: Path, endpoint: str) -> Place:
    return Place(tmp_path / "blobs", make_bucket(endpoint), endpoint)


@pytest.fixture
def blobs(place: Place) -> BlobStore:
    return place.open()


@pytest.fixture
def local(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", Quarantine(tmp_path / "quarantine"))


def test_stored_adapter_loads_with_its_digest(blobs: BlobStore, place: Place) -> None:
    adapter = random_adapter()
    num_bytes = blobs.put(adapter)
    assert blobs.load(adapter.digest).digest == adapter.digest
    assert num_bytes == files.num_bytes(adapter)
    assert place.stored() == {_name(adapter.digest): num_bytes}
    with blobs.open(adapter.digest) as file:
        assert len(file.read()) == num_bytes
    assert place.leftovers() == []


def test_storing_again_changes_nothing(blobs: BlobStore, place: Place) -> None:
    first = blobs.put(random_adapter())
    before = place.stored()
    assert blobs.put(random_adapter()) == first
    assert place.stored() == before


def test_corrupt_blob_is_told_and_replaced_when_stored_again(
    blobs: BlobStore, place: Place, tmp_path: Path
) -> None:
    adapter, other = random_adapter(1), random_adapter(2)
    blobs.put(adapter)
    files.write(other, tmp_path / "other")
    place.write(adapter.digest, (tmp_path / "other").read_bytes())
    with pytest.raises(BlobCorrupt) as caught:
        blobs.load(adapter.digest)
    assert (caught.value.digest, caught.value.found) == (adapter.digest, other.digest)
    place.write(adapter.digest, b"half")
    with pytest.raises(BlobCorrupt, match="file: "):
        blobs.load(adapter.digest)
    blobs.put(adapter)
    assert blobs.load(adapter.digest).digest == adapter.digest
    assert place.leftovers() == []


def test_deleting_answers_the_bytes_freed(blobs: BlobStore, place: Place) -> None:
    adapter = random_adapter()
    num_bytes = blobs.put(adapter)
    assert blobs.delete(adapter.digest) == num_bytes
    assert blobs.delete(adapter.digest) == 0
    for use in (blobs.load, blobs.open):
        with pytest.raises(AdapterNotFound, match=adapter.digest):
            use(adapter.digest)
    assert place.stored() == {}


def test_an_open_blob_outlives_its_deletion(blobs: BlobStore) -> None:
    adapter = random_adapter()
    num_bytes = blobs.put(adapter)
    with blobs.open(adapter.digest) as file:
        blobs.delete(adapter.digest)
        assert len(file.read()) == num_bytes


@pytest.mark.parametrize("digest", ["", "sha256:../../x", f"sha256:{'A' * 64}", f"md5:{'0' * 64}"])
def test_what_is_no_digest_never_reaches_the_store(blobs: BlobStore, digest: str) -> None:
    for use in (blobs.open, blobs.load, blobs.delete):
        with pytest.raises(InvalidName, match="digest"):
            use(digest)


def test_many_writers_of_one_adapter_agree(blobs: BlobStore, place: Place) -> None:
    adapters = [random_adapter() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(blobs.put, adapters))
    assert sizes == {files.num_bytes(adapters[0])}
    assert blobs.load(adapters[0].digest).digest == adapters[0].digest
    assert place.leftovers() == []


def test_storing_again_keeps_the_local_file(local: LocalBlobs) -> None:
    local.put(random_adapter())
    path = local.path(random_adapter().digest)
    inode = path.stat().st_ino
    local.put(random_adapter())
    assert path.stat().st_ino == inode


def test_failed_write_leaves_nothing(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        local.put(random_adapter())
    everything = local.root.parent.rglob("*")
    assert [path.name for path in everything if path.is_file()] == []


def test_file_is_on_disk_before_it_has_its_name(
    local: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name is on disk before `put` returns, and its directory's name before it."""
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
    local.put(random_adapter())
    assert events == ["directory", "file", "rename", "directory"]
    local.delete(random_adapter().digest)
    events.clear()
    local.put(random_adapter())
    assert events == ["file", "rename", "directory"], "the directory's own name is there to stay"


def test_another_replica_sees_what_one_stored_and_deleted(remote: Place) -> None:
    first, second = remote.open("a"), remote.open("b")
    adapter = random_adapter()
    first.put(adapter)
    assert second.load(adapter.digest).digest == adapter.digest
    second.delete(adapter.digest)
    with pytest.raises(AdapterNotFound):
        remote.open("c").load(adapter.digest)


def test_cached_copy_is_used_and_a_damaged_one_fetched_again(remote: Place) -> None:
    blobs, adapter = remote.open(), random_adapter()
    blobs.put(adapter)
    [copy] = remote.copies(adapter.digest)
    remote._s3.delete_object(Bucket=remote.bucket, Key=_key(adapter.digest))
    assert blobs.load(adapter.digest).digest == adapter.digest
    blobs.put(adapter)
    copy.write_bytes(b"half")
    assert blobs.load(adapter.digest).digest == adapter.digest
    assert copy.stat().st_size == files.num_bytes(adapter)


def test_cache_keeps_to_its_bytes_and_drops_the_longest_unused(remote: Place) -> None:
    adapters = [random_adapter(seed) for seed in range(3)]
    size = files.num_bytes(adapters[0])
    blobs = remote.open(cache_bytes=2 * size)
    for age, adapter in enumerate(adapters[:2]):
        blobs.put(adapter)
        os.utime(remote.copies(adapter.digest)[0], (age, age))
    blobs.load(adapters[0].digest)  # the elder one is in use
    blobs.put(adapters[2])
    assert [len(remote.copies(adapter.digest)) for adapter in adapters] == [1, 0, 1]
    assert all(blobs.load(adapter.digest).digest == adapter.digest for adapter in adapters)


def test_a_cache_too_small_for_a_blob_keeps_none(remote: Place) -> None:
    blobs, adapter = remote.open(cache_bytes=1), random_adapter()
    blobs.put(adapter)
    assert blobs.load(adapter.digest).digest == adapter.digest
    with blobs.open(adapter.digest) as file:
        assert len(file.read()) == files.num_bytes(adapter)
    assert remote.copies(adapter.digest) == []


def test_a_bucket_that_is_not_there_is_told_at_once(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(BlobsUnavailable) as caught:
        Place(tmp_path, f"no-{make_bucket(endpoint)}", endpoint).open()
    assert "no-adapters" in caught.value.reason
    assert "no-adapters" not in str(caught.value)


def test_a_protocol_that_nobody_speaks_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BlobsUnavailable) as caught:
        open_blobs("gopher://x/y", tmp_path, Quarantine(tmp_path / "q"), 1)
    assert "gopher" in caught.value.reason

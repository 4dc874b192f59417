"""The door: everything is checked before anything is written, and bytes come before names."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from store.conftest import PARTS, TINY_BASE, MakePeftAdapter
from store.test_archive import CONFIG, PACKS, TENSORS
from store_factories import BASE, LIMITS, QKV, adapter_of, change, element, random, random_adapter

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.effect import effect_of
from adapters_store.errors import (
    AdapterNotFound,
    AdapterRefused,
    AdapterTooLarge,
    BlobCorrupt,
    InvalidName,
    NameConflict,
)
from adapters_store.ingest import AdapterStore


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore.open(tmp_path / "store", BASE, {}, LIMITS)


def upload(tmp_path: Path, adapter: SparseAdapter) -> Path:
    files.write(adapter, tmp_path / "upload")
    return tmp_path / "upload"


def _everything(store: AdapterStore) -> list[str]:
    return [record.id for record in store.registry.list_page(1000, None)[0]]


def _blobs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "blobs").rglob("*.safetensors"))


def test_upload_is_published_and_loads(store: AdapterStore, tmp_path: Path) -> None:
    adapter = random_adapter(kind="low rank")
    result = store.ingest(upload(tmp_path, adapter), "team/sql", {"task": "sql"})
    record = result.record
    assert result.created
    assert (record.id, record.digest) == ("team/sql@1", adapter.digest)
    assert (record.kinds, record.num_layers, record.nnz) == (("low_rank",), 1, 768)
    assert (record.base_name, record.metadata) == ("tiny-base", {"task": "sql"})
    assert store.measure(result.adapter) == effect_of(adapter)
    assert store.resolve("team/sql") == record
    assert store.load(record.digest).digest == adapter.digest
    with store.open_blob(record.digest) as file:
        assert len(file.read()) == record.num_bytes


def test_same_upload_answers_the_version_that_exists(store: AdapterStore, tmp_path: Path) -> None:
    path = upload(tmp_path, random_adapter())
    first = store.ingest(path, "sql", {})
    again = store.ingest(path, "sql", {"task": "other"})
    assert not again.created
    assert again.record == first.record


def test_dry_run_writes_nothing(store: AdapterStore, tmp_path: Path) -> None:
    path = upload(tmp_path, random_adapter())
    dry = store.ingest(path, "sql", {}, dry_run=True)
    assert (_everything(store), _blobs(tmp_path)) == ([], [])
    real = store.ingest(path, "sql", {})
    assert replace(dry.record, created=real.record.created) == real.record
    assert (dry.created, dry.adapter.digest) == (True, real.adapter.digest)
    assert not store.ingest(path, "sql", {}, dry_run=True).created


def test_dry_run_refuses_what_publishing_refuses(store: AdapterStore, tmp_path: Path) -> None:
    path = upload(tmp_path, change(random_adapter().deltas[0], scale=float("nan")))
    with pytest.raises(AdapterRefused, match="scale: nan"):
        store.ingest(path, "sql", {}, dry_run=True)


def test_file_of_exactly_the_limit_passes_and_one_byte_more_does_not(tmp_path: Path) -> None:
    path = upload(tmp_path, random_adapter())
    size = path.stat().st_size
    exact = AdapterStore.open(tmp_path / "a", BASE, {}, replace(LIMITS, max_file_bytes=size))
    assert exact.ingest(path, "sql", {}).created
    less = AdapterStore.open(tmp_path / "b", BASE, {}, replace(LIMITS, max_file_bytes=size - 1))
    with pytest.raises(AdapterTooLarge) as caught:
        less.ingest(path, "sql", {})
    error = caught.value
    assert (error.what, error.found, error.limit) == ("bytes", size, size - 1)


@pytest.mark.parametrize("archive", PACKS)
def test_peft_archive_is_imported(
    tmp_path: Path, archive: str, make_peft_adapter: MakePeftAdapter
) -> None:
    peft = make_peft_adapter("llama", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    members = {name: (peft.directory / name).read_bytes() for name in (CONFIG, TENSORS)}
    store = AdapterStore.open(tmp_path / "store", TINY_BASE, PARTS, LIMITS)
    path = PACKS[archive](tmp_path / "upload", members)
    record = store.ingest(path, "lora", {}).record
    stored = store.load(record.digest)
    for delta in stored.deltas:
        assert torch.allclose(delta.dense(), peft.merged[delta.layer], rtol=0, atol=1e-7)
    assert json.loads(stored.notes["lineage"])["peft_type"] == "LORA"
    assert [files.read(path).digest for path in _blobs(tmp_path)] == [record.digest]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\3\4", b"\x1f\x8b", b"\2" + bytes(7) + b"{}"]
)
def test_other_files_are_refused(store: AdapterStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(AdapterRefused):
        store.ingest(tmp_path / "upload", "sql", {})
    assert (_everything(store), _blobs(tmp_path)) == ([], [])


def test_adapter_of_another_base_is_refused_and_nothing_kept(
    store: AdapterStore, tmp_path: Path
) -> None:
    other = replace(random_adapter(), base={QKV: f"sha256:{'9' * 64}"})
    with pytest.raises(AdapterRefused, match="the file is for another base"):
        store.ingest(upload(tmp_path, other), "sql", {})
    assert (_everything(store), _blobs(tmp_path)) == ([], [])


def test_adapter_is_checked_again_when_the_base_has_changed(
    store: AdapterStore, tmp_path: Path
) -> None:
    record = store.ingest(upload(tmp_path, random_adapter()), "sql", {}).record
    known = replace(BASE.layers[QKV], digest=f"sha256:{'9' * 64}")
    other = AdapterStore.open(
        tmp_path / "store", replace(BASE, layers={**BASE.layers, QKV: known}), {}, LIMITS
    )
    assert _everything(other) == ["sql@1"]
    with pytest.raises(AdapterRefused, match="the file is for another base"):
        other.load(record.digest)


def test_name_of_the_base_is_taken(tmp_path: Path) -> None:
    path = upload(tmp_path, random_adapter())
    for name in ("tiny-base", "Org/Base-4k"):
        store = AdapterStore.open(tmp_path / "store", replace(BASE, name=name), {}, LIMITS)
        with pytest.raises(NameConflict) as caught:
            store.ingest(path, name, {})
        assert (caught.value.name, caught.value.owner) == (name, "the base model")


def test_malformed_name_is_refused_before_the_file_is_read(
    store: AdapterStore, tmp_path: Path
) -> None:
    for dry_run in (False, True):
        with pytest.raises(InvalidName, match=r"name '\.\./x'"):
            store.ingest(tmp_path / "missing", "../x", {}, dry_run=dry_run)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes", "\ud800"])
def test_metadata_that_is_not_json_is_refused(
    store: AdapterStore, tmp_path: Path, value: Any
) -> None:
    with pytest.raises(AdapterRefused, match="metadata: not JSON"):
        store.ingest(upload(tmp_path, random_adapter()), "sql", {"a": value})


def test_deleting_frees_a_blob_when_its_last_version_goes(
    store: AdapterStore, tmp_path: Path
) -> None:
    path = upload(tmp_path, random_adapter())
    record = store.ingest(path, "a", {}).record
    store.ingest(path, "b", {})
    first = store.delete("a@1")
    assert ([each.id for each in first.records], first.bytes_freed) == (["a@1"], 0)
    assert store.load(record.digest)
    last = store.delete("b")
    assert ([each.id for each in last.records], last.bytes_freed) == (["b@1"], record.num_bytes)
    with pytest.raises(AdapterNotFound):
        store.load(record.digest)
    assert store.ingest(path, "a", {}).record.version == 2


def test_deleting_a_name_removes_all_its_versions(store: AdapterStore, tmp_path: Path) -> None:
    sizes = [
        store.ingest(upload(tmp_path, random_adapter(seed)), "a", {}).record.num_bytes
        for seed in range(3)
    ]
    result = store.delete("a")
    assert [each.version for each in result.records] == [1, 2, 3]
    assert result.bytes_freed == sum(sizes)
    assert (_everything(store), _blobs(tmp_path)) == ([], [])
    with pytest.raises(AdapterNotFound):
        store.delete("a")


def test_damaged_blob_is_told_not_served(store: AdapterStore, tmp_path: Path) -> None:
    record = store.ingest(upload(tmp_path, random_adapter()), "sql", {}).record
    [path] = _blobs(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BlobCorrupt):
        store.load(record.digest)


def test_uploads_and_deletions_at_once_leave_every_listed_version_loadable(
    store: AdapterStore, tmp_path: Path
) -> None:
    path = upload(tmp_path, adapter_of(element(QKV, torch.float32, random(1))))

    def publish_and_delete(name: str) -> None:
        for _ in range(6):
            reference = store.ingest(path, name, {}).record.id
            assert store.load(store.resolve(reference).digest)
            store.delete(reference)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish_and_delete, "abcd"))
    assert (_everything(store), _blobs(tmp_path)) == ([], [])

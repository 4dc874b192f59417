"""Two servers over one registry and one bucket: each sees what the other publishes and deletes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import make_bucket, s3_server
from store_factories import BASE, LIMITS, random_adapter

from adapters_store import files
from adapters_store.errors import AdapterNotFound
from adapters_store.ingest import AdapterStore


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[AdapterStore, AdapterStore]]:
    """Two stores with data directories of their own, as on two machines."""
    with s3_server() as endpoint:
        shared: dict[str, Any] = {
            "registry_url": f"sqlite:///{tmp_path}/registry.sqlite",
            "blob_url": f"s3://{make_bucket(endpoint)}",
        }
        for name in "ab":
            (tmp_path / name).mkdir()
        first = AdapterStore.open(tmp_path / "a", BASE, {}, LIMITS, **shared)
        second = AdapterStore.open(tmp_path / "b", BASE, {}, LIMITS, **shared)
        yield first, second
        first.close()
        second.close()


def test_replicas_see_each_others_adapters(
    replicas: tuple[AdapterStore, AdapterStore], tmp_path: Path
) -> None:
    first, second = replicas
    files.write(random_adapter(), tmp_path / "upload")
    record = first.ingest(tmp_path / "upload", "sql", {}).record
    assert second.resolve("sql") == record
    assert second.load(record.digest).digest == record.digest
    with second.open_blob(record.digest) as file:
        assert len(file.read()) == record.num_bytes
    assert second.delete("sql").bytes_freed == record.num_bytes
    with pytest.raises(AdapterNotFound):
        first.resolve("sql")
    again = first.ingest(tmp_path / "upload", "sql", {}).record
    assert (again.version, second.load(again.digest).digest) == (2, record.digest)

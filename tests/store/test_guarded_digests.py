"""A row never outlives its file: who publishes and who deletes one digest wait for each other."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from databases import NewDatabase
from drafts import digest, draft
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from store.conftest import OpenRegistry
from store_factories import BASE, LIMITS, random_adapter

from adapters_store import files
from adapters_store.blobs import LocalBlobs
from adapters_store.ingest import AdapterStore
from adapters_store.quarantine import Quarantine
from adapters_store.registry import Registry
from adapters_store.signatures import TrustedKeys

NUM_ROUNDS = 40
WAIT_S = 20.0
END_ALL_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def replicas(tmp_path: Path, open_registry: OpenRegistry) -> tuple[AdapterStore, AdapterStore]:
    """Two stores that share a database and the place of the files, as two machines do."""

    def replica(name: str) -> AdapterStore:
        quarantine = Quarantine(tmp_path / name)
        blobs = LocalBlobs(tmp_path / "blobs", quarantine)
        keys = TrustedKeys({})
        return AdapterStore(open_registry(), blobs, quarantine, BASE, {}, LIMITS, keys, None)

    return replica("a"), replica("b")


@pytest.fixture
def pair() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_version_published_while_another_of_its_digest_is_deleted_keeps_its_file(
    replicas: tuple[AdapterStore, AdapterStore], pair: ThreadPoolExecutor, tmp_path: Path
) -> None:
    first, second = replicas
    content = random_adapter().digest
    files.write(random_adapter(), tmp_path / "upload")
    first.ingest(tmp_path / "upload", "name-0", {})
    for number in range(NUM_ROUNDS):
        start = threading.Barrier(2)

        def publish(name: str = f"name-{number + 1}", start: threading.Barrier = start) -> None:
            start.wait()
            first.ingest(tmp_path / "upload", name, {})

        def delete(name: str = f"name-{number}", start: threading.Barrier = start) -> None:
            start.wait()
            second.delete(name)

        for done in (pair.submit(publish), pair.submit(delete)):
            done.result()
        assert second.load(first.resolve(f"name-{number + 1}").digest).digest == content
    assert first.delete(f"name-{NUM_ROUNDS}").bytes_freed > 0


def test_guard_of_a_digest_holds_back_others_of_it_alone(
    open_registry: OpenRegistry, pair: ThreadPoolExecutor
) -> None:
    one, other = open_registry(), open_registry()
    entered = threading.Event()
    with one.guard(_far(1)):
        with other.guard(_far(2)):
            pass
        waiting = pair.submit(lambda: _enter(other, _far(1), entered))
        assert not entered.wait(0.05)
    assert entered.wait(WAIT_S)
    waiting.result()


def _far(number: int) -> str:
    """Digests that differ from their first characters on."""
    return f"sha256:{number:02x}{62 * '0'}"


def _enter(registry: Registry, wanted: str, entered: threading.Event) -> None:
    with registry.guard(wanted):
        entered.set()


def test_who_lost_the_lock_publishes_nothing(new_postgres_database: NewDatabase) -> None:
    """PostgreSQL's lock goes with the transaction that would publish."""
    url = new_postgres_database()
    registry, engine = Registry(url), create_engine(url)
    with pytest.raises(OperationalError):
        _publish_without_lock(registry, engine)
    assert registry.list_page(1, None) == ([], None)
    engine.dispose()
    registry.close()


def _publish_without_lock(registry: Registry, engine: Engine) -> None:
    with registry.guard(digest(1)) as guarded:
        with engine.begin() as connection:
            connection.execute(text(END_ALL_OTHERS))
        with registry.guard(digest(1)):
            pass  # the lock is free
        guarded.publish(draft())

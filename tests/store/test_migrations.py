"""The schema: made and brought up to date by migrations, which lose nothing."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from drafts import digest, draft
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from adapters_store.errors import RegistryUnavailable
from adapters_store.registry import Filter, Registry
from adapters_store.registry.tables import Job, Table

SCHEMAS = Path(__file__).parent / "schemas"
OpenRegistry = Callable[[], Registry]


@pytest.fixture
def old_registry(tmp_path: Path) -> str:
    """A database as it was made before there were migrations, with two names and a spent one."""
    path = tmp_path / "registry.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript((SCHEMAS / "before_migrations.sql").read_text())
    connection.close()
    return f"sqlite:///{path}"


def _differences(url: str) -> list[object]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found: list[object] = compare_metadata(
            MigrationContext.configure(connection), Table.metadata
        )
    engine.dispose()
    return found


def test_migrations_arrive_at_the_tables_that_are_mapped(
    url: str, open_registry: OpenRegistry
) -> None:
    assert _differences(url), "an empty database differs"
    open_registry()
    assert _differences(url) == []


def test_opening_again_changes_nothing(url: str, open_registry: OpenRegistry) -> None:
    record = open_registry().publish(draft()).record
    assert open_registry().resolve("sql") == record
    assert _differences(url) == []


def test_registry_from_before_migrations_loses_nothing(old_registry: str) -> None:
    registry = Registry(old_registry)
    records, _ = registry.list_page(9, None)
    assert [record.id for record in records] == ["ns/odd@1", "sql@1", "sql@3"]
    odd, first, third = records
    assert first.metadata == {"task": "Text to SQL", "tags": ["db", "sql"]}
    assert (first.kinds, first.num_layers, first.nnz, first.num_bytes) == (("element",), 2, 7, 99)
    assert (third.digest, third.created) == (digest(2), 1700000001.5)
    assert odd.metadata["description"] == "nul \0 here"
    assert registry.publish(draft(number=9)).record.id == "sql@4"
    assert registry.publish(draft("gone")).record.id == "gone@9"
    registry.close()
    assert _differences(old_registry) == []


def test_registry_from_before_migrations_is_searchable(old_registry: str) -> None:
    registry = Registry(old_registry)

    def found(wanted: Filter) -> list[str]:
        return [record.id for record in registry.list_page(9, None, wanted)[0]]

    assert found(Filter(task="Text to SQL")) == found(Filter(tag="db")) == ["sql@1"]
    assert found(Filter(kind="bias")) == ["sql@3"]
    assert found(Filter(tag="kept")) == found(Filter(q="NUL \0 he")) == ["ns/odd@1"]
    assert found(Filter(q="to sql")) == ["sql@1"]
    registry.close()


def test_jobs_from_before_evaluations_are_still_to_be_done(
    url: str, open_registry: OpenRegistry
) -> None:
    config = Config()
    config.set_main_option("script_location", "adapters_store:migrations")
    engine = create_engine(url)
    columns = "id, kind, status, progress, request, worker, created, updated"
    values = """'job-1', 'merge', 'running', 0.5, '{"name": "x"}', 'one', 1.0, 2.0"""
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.exec_driver_sql(f"INSERT INTO jobs ({columns}) VALUES ({values})")
    engine.dispose()
    with Session(open_registry().database.engine) as session:
        job = session.get_one(Job, "job-1")
        assert (job.status, job.progress, job.request) == ("running", 0.5, {"name": "x"})
    assert _differences(url) == []


def test_registries_opened_at_once_agree_on_the_schema(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        registries = list(pool.map(lambda _: Registry(url), range(6)))
    assert _differences(url) == []
    for registry in registries:
        registry.close()


def test_registry_of_a_newer_release_is_not_touched(url: str, open_registry: OpenRegistry) -> None:
    open_registry().close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(RegistryUnavailable, match="9999"):
        open_registry()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "parse"),
        ("nonsense", "parse"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://host/db", "only sqlite and postgresql"),
        ("sqlite:////nowhere/at/all/registry.sqlite", "unable to open"),
        ("postgresql://me:secret@/db?host=/nowhere/at/all", "nowhere"),
    ],
)
def test_registry_that_cannot_be_opened_says_why_without_the_password(
    url: str, reason: str
) -> None:
    with pytest.raises(RegistryUnavailable, match=reason) as caught:
        Registry(url)
    assert "secret" not in str(caught.value)

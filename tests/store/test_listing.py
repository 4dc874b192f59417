"""Lists: filters, search, pages, and how much of the registry a page reads."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drafts import draft
from sqlalchemy import event, insert

from adapters_store.errors import InvalidMetadata
from adapters_store.registry import ANY, AdapterRecord, Change, Filter, Registry
from adapters_store.registry.listing import page_query
from adapters_store.registry.tables import Label, Name, Version

ADAPTERS: list[dict[str, Any]] = [
    {"name": "date-iso", "metadata": {"task": "Dates", "tags": ["text", "iso"]}},
    {"name": "date-us", "metadata": {"task": "Dates", "description": "100% Straße"}},
    {"name": "ns/date", "kinds": ("block",), "metadata": {"tags": ["a\0b"]}},
    {"name": "sql", "base_name": "other", "metadata": {"description": "翻译 of questions"}},
    {"name": "x_y", "kinds": ("element", "block"), "metadata": {}},
]
CASES: list[tuple[Filter, str]] = [
    (Filter(), "date-iso date-us ns/date sql x_y"),
    (Filter(name=""), "date-iso date-us ns/date sql x_y"),
    (Filter(name="date"), "date-iso date-us"),
    (Filter(name="date-iso"), "date-iso"),
    (Filter(name="date-iso2"), ""),
    (Filter(name="ate"), ""),
    (Filter(name="%"), ""),
    (Filter(name="\0"), ""),
    (Filter(name="é"), ""),
    (Filter(kind="block"), "ns/date x_y"),
    (Filter(kind="bloc"), ""),
    (Filter(tag="iso"), "date-iso"),
    (Filter(tag="a\0b"), "ns/date"),
    (Filter(tag=""), ""),
    (Filter(task="Dates"), "date-iso date-us"),
    (Filter(task="dates"), ""),
    (Filter(base="other"), "sql"),
    (Filter(task="Dates", tag="text"), "date-iso"),
    (Filter(task="Dates", base="other"), ""),
    (Filter(kind="element", name="x"), "x_y"),
    (Filter(q="date"), "date-iso date-us ns/date"),
    (Filter(q="DATE"), "date-iso date-us ns/date"),
    (Filter(q="q"), "sql"),
    (Filter(q="_"), "x_y"),
    (Filter(q="%"), "date-us"),
    (Filter(q="0%"), "date-us"),
    (Filter(q="%%"), ""),
    (Filter(q="STRASSE"), "date-us"),
    (Filter(q="翻译"), "sql"),
    (Filter(q="s/date"), "ns/date"),
    (Filter(q="date-date"), ""),
    (Filter(q="\0"), "date-us sql"),  # NUL is looked for as the blank that it was kept as
    (Filter(q="q" * 200), ""),
    (Filter(q="date", kind="block"), "ns/date"),
    (Filter(q="date", name="date-u", task="Dates"), "date-us"),
]


@pytest.fixture
def filled(registry: Registry) -> Registry:
    kinds = {"kinds": ("element",)}
    for fields in ADAPTERS:
        registry.publish(draft(**{**kinds, **fields}))
    return registry


def ids(records: list[AdapterRecord]) -> list[str]:
    return [record.id for record in records]


def pages(registry: Registry, limit: int, wanted: Filter) -> Iterator[list[AdapterRecord]]:
    cursor: str | None = None
    while True:
        records, cursor = registry.list_page(limit, cursor, wanted)
        yield records
        if cursor is None:
            return


def test_filters_find_what_they_say_page_by_page(filled: Registry) -> None:
    for wanted, names in CASES:
        expected = [f"{name}@1" for name in names.split()]
        assert ids(filled.list_page(99, None, wanted)[0]) == expected, wanted
        found = [record for page in pages(filled, 1, wanted) for record in page]
        assert ids(found) == expected, wanted


def test_every_version_is_found_by_its_own_metadata(registry: Registry) -> None:
    for number, task in enumerate(["old", "new"]):
        registry.publish(draft(number=number, metadata={"task": task}))
    assert ids(registry.list_page(9, None, Filter(task="old"))[0]) == ["sql@1"]
    registry.change("sql@1", Change(metadata={"task": "newer"}))
    assert ids(registry.list_page(9, None, Filter(task="old"))[0]) == []
    assert ids(registry.list_page(9, None, Filter(q="new"))[0]) == ["sql@1", "sql@2"]
    registry.delete("sql@1")
    assert ids(registry.list_page(9, None, Filter(q="new"))[0]) == ["sql@2"]


def test_pages_are_stable_while_adapters_come(registry: Registry) -> None:
    for name in ("b", "d", "f"):
        registry.publish(draft(name))
    wanted = Filter(kind="bias")
    first, cursor = registry.list_page(2, None, wanted)
    for name in ("a", "c", "e"):
        registry.publish(draft(name))
    second, cursor = registry.list_page(2, cursor, wanted)
    assert (ids(first), ids(second), cursor) == (["b@1", "d@1"], ["e@1", "f@1"], None)


def test_latest_is_the_newest_version_of_every_name_that_has_one(filled: Registry) -> None:
    filled.publish(draft("sql", 2))
    filled.publish(draft("sql", 3))
    filled.delete("sql@3")
    filled.delete("x_y")
    found = [f"{row.name}@{row.version}" for row in filled.latest()]
    assert found == ["date-iso@1", "date-us@1", "ns/date@1", "sql@2"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", 1),
        ("task", "x" * 201),
        ("description", ["a"]),
        ("description", "x" * 4001),
        ("licence", {}),
        ("tags", "sql"),
        ("tags", ["a", 1]),
        ("tags", [""]),
        ("tags", ["x" * 201]),
        ("tags", ["a"] * 65),
        ("metrics", [0.5]),
        ("lineage", 3),
    ],
)
def test_known_metadata_of_another_form_is_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'r.sqlite'}")
    with pytest.raises(InvalidMetadata, match=rf"metadata\.{field}"):
        registry.publish(draft(metadata={field: value}))
    with pytest.raises(InvalidMetadata, match=rf"metadata\.{field}"):
        registry.preview(draft(metadata={field: value}))
    registry.close()


WORK = [
    ANY,
    Filter(name="adapter-01"),
    Filter(kind="element"),
    Filter(base="tiny-base", kind="element"),
    Filter(tag="rare"),
    Filter(tag="rare", kind="element"),
    Filter(q="adapter"),
    Filter(q="ter-0150"),
    Filter(q="r-01", kind="element"),
    Filter(q="nowhere"),
]
SMALL, LARGE, LIMIT = 400, 4000, 20


def large_registry(path: Path, count: int) -> Registry:
    """`count` names; one in a hundred is tagged. Written at once, since each alone takes a sync."""
    registry = Registry(f"sqlite:///{path}")
    rows = [_row(number) for number in range(count)]
    with registry._writes.begin() as session:
        session.execute(insert(Name), [{"name": row.name, "next_version": 2} for row in rows])
        session.add_all(rows)
        session.flush()
        session.execute(insert(Label), [label for row in rows for label in row.labels])
    return registry


def _row(number: int) -> Version:
    tags = ["rare"] if number % 100 == 0 else []
    made = draft(f"adapter-{number:05}", number, {"tags": tags}, ("element",))
    return Version.of(AdapterRecord(**vars(made), version=1, created=0.0))


def steps(registry: Registry, wanted: Filter, after: str | None) -> int:
    """How many hundreds of SQLite's instructions a page takes."""
    counted = [0]

    def count() -> None:
        counted[0] += 1

    def watch(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(registry._database.engine, "checkout", watch)
    registry.list_page(LIMIT, after, wanted)
    event.remove(registry._database.engine, "checkout", watch)
    return counted[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = large_registry(tmp_path_factory.mktemp("small") / "r.sqlite", SMALL)
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = large_registry(tmp_path_factory.mktemp("large") / "r.sqlite", LARGE)
    yield registry
    registry.close()


@pytest.mark.parametrize("wanted", WORK, ids=str)
@pytest.mark.parametrize("after", [None, "adapter-00200@1"])
def test_page_of_ten_times_the_adapters_takes_no_more_work(
    small: Registry, large: Registry, wanted: Filter, after: str | None
) -> None:
    many = steps(large, wanted, after)
    assert many <= 2 * steps(small, wanted, after) + 200, "grows with the registry"


@pytest.mark.parametrize("wanted", WORK, ids=str)
def test_page_is_read_from_indexes_in_their_order(large: Registry, wanted: Filter) -> None:
    with large._reads.begin() as session:
        query = page_query(session, None, wanted).limit(LIMIT)
        dialect = large._database.engine.dialect
        compiled = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
    for *_, detail in plan:
        assert "TEMP B-TREE" not in detail
        assert detail.startswith("SEARCH") or "USING INDEX" in detail or "CORRELATED" in detail

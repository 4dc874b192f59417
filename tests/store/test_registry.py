"""The registry: versions that grow, are never lost and never used twice."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from drafts import digest, draft

from adapters_store.errors import AdapterNotFound, InvalidName
from adapters_store.registry import AdapterRecord, Registry


def _ids(records: list[AdapterRecord]) -> list[str]:
    return [record.id for record in records]


def test_record_holds_all_that_was_published(registry: Registry) -> None:
    before = time.time()
    record = registry.publish(draft()).record
    assert before <= record.created <= time.time()
    assert record == AdapterRecord(**vars(draft()), version=1, created=record.created)
    assert registry.resolve("sql") == record
    assert record.id == "sql@1"


def test_same_digest_answers_the_version_that_exists(registry: Registry) -> None:
    first = registry.publish(draft())
    registry.publish(draft(number=2))
    again = registry.publish(replace(draft(), metadata={"other": 1}))
    assert (first.created, again.created) == (True, False)
    assert again.record == first.record


def test_new_digest_makes_the_next_version_of_that_name(registry: Registry) -> None:
    versions = [registry.publish(draft(number=number)).record.version for number in (1, 2, 3)]
    assert versions == [1, 2, 3]
    assert registry.publish(draft("other", 1)).record.version == 1


def test_references_resolve_to_latest_number_or_digest(registry: Registry) -> None:
    for number in (1, 2):
        registry.publish(draft(number=number))
    references = ["sql", "sql@1", "sql@2", f"sql@{digest(1)}"]
    assert [registry.resolve(each).version for each in references] == [2, 1, 2, 1]


@pytest.mark.parametrize("reference", ["other", "sql@2", f"sql@{digest(9)}", "ns/sql"])
def test_unknown_reference_is_not_found(registry: Registry, reference: str) -> None:
    registry.publish(draft())
    for use in (registry.resolve, registry.delete):
        with pytest.raises(AdapterNotFound) as caught:
            use(reference)
        assert caught.value.reference == reference


def test_malformed_name_and_reference_are_refused(registry: Registry) -> None:
    for use in (registry.publish, registry.preview):
        with pytest.raises(InvalidName, match="'SQL'"):
            use(draft("SQL"))
    for use_reference in (registry.resolve, registry.delete):
        with pytest.raises(InvalidName, match="'sql@X'"):
            use_reference("sql@X")
    with pytest.raises(InvalidName, match="'@'"):
        registry.list_page(1, "@")


def test_version_numbers_are_never_used_again(registry: Registry) -> None:
    for number in (1, 2):
        registry.publish(draft(number=number))
    assert _ids(registry.delete("sql@2")) == ["sql@2"]
    assert registry.publish(draft(number=2)).record.version == 3
    assert _ids(registry.delete("sql")) == ["sql@1", "sql@3"]
    assert registry.publish(draft(number=1)).record.version == 4


def test_deletion_by_digest_removes_that_version(registry: Registry) -> None:
    for number in (1, 2):
        registry.publish(draft(number=number))
    assert _ids(registry.delete(f"sql@{digest(1)}")) == ["sql@1"]
    assert registry.resolve("sql").version == 2


def test_digest_is_used_while_any_version_has_it(registry: Registry) -> None:
    registry.publish(draft("a"))
    registry.publish(draft("b"))
    registry.delete("a")
    with registry.guard(digest(1)) as guarded:
        assert guarded.is_used()
    registry.delete("b")
    with registry.guard(digest(1)) as guarded:
        assert not guarded.is_used()


def test_preview_answers_what_publishing_would_and_writes_nothing(registry: Registry) -> None:
    assert registry.preview(draft()).record.version == 1
    assert registry.list_page(9, None) == ([], None)
    published = registry.publish(draft())
    assert registry.preview(draft()) == replace(published, created=False)
    assert registry.preview(draft(number=2)).record.id == "sql@2"


def test_pages_hold_every_record_once_in_order(registry: Registry) -> None:
    wanted = [f"{name}@{version}" for name in ("a", "a/b", "b") for version in range(1, 12)]
    for reference in reversed(wanted):
        registry.publish(draft(reference.split("@")[0], len(reference) + wanted.index(reference)))
    found: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = registry.list_page(4, cursor)
        found += _ids(page)
        if cursor is None:
            break
        assert len(page) == 4
    assert found == wanted


def test_last_page_that_is_full_has_no_cursor(registry: Registry) -> None:
    for number in (1, 2):
        registry.publish(draft(number=number))
    assert registry.list_page(2, None)[1] is None
    assert registry.list_page(1, None)[1] == "sql@1"
    registry.delete("sql@1")
    assert _ids(registry.list_page(2, "sql@1")[0]) == ["sql@2"]


def test_records_outlive_the_process(open_registry: Callable[[], Registry]) -> None:
    record = open_registry().publish(draft()).record
    assert open_registry().resolve("sql@1") == record


def test_threads_that_publish_at_once_lose_no_version(
    open_registry: Callable[[], Registry],
) -> None:
    registries = [open_registry(), open_registry()]
    with ThreadPoolExecutor(8) as pool:
        published = pool.map(
            lambda number: registries[number % 2].publish(draft(number=number)), range(60)
        )
        versions = {publication.record.version for publication in published}
    assert versions == set(range(1, 61))
    assert len(registries[0].list_page(100, None)[0]) == 60


def test_threads_that_publish_the_same_agree_on_one_version(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda _: registry.publish(draft()), range(24)))
    assert {publication.record.version for publication in published} == {1}
    assert sum(publication.created for publication in published) == 1


PUBLISH_MANY = """
import sys
from drafts import draft
from adapters_store.registry import Registry
start = int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
registry = Registry(sys.argv[1])
for number in range(start, start + 40):
    print(registry.publish(draft(number=number)).record.version, flush=True)
registry.close()
"""


def test_processes_that_open_and_publish_at_once_lose_no_version(
    url: str, open_registry: Callable[[], Registry]
) -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH_MANY, url, str(start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for start in (0, 1000)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    outputs = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    versions = sorted(int(line) for output in outputs for line in output.split())
    assert versions == list(range(1, 81))
    assert len(open_registry().list_page(1000, None)[0]) == 80

"""Aliases: moved, split, rolled back, and never pointing at nothing."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from drafts import draft
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.errors import (
    AdapterInUse,
    AdapterNotFound,
    InvalidMetadata,
    InvalidName,
    NoEarlierTarget,
)
from adapters_store.registry import Change, Registry
from adapters_store.registry.aliases import chosen

CANARY = {1: 0.9, 2: 0.1}


@pytest.fixture
def versions(registry: Registry) -> Registry:
    """A registry with sql@1, sql@2 and sql@3."""
    for number in (1, 2, 3):
        registry.publish(draft(number=number))
    return registry


def point(registry: Registry, **targets: int | Mapping[int, float] | None) -> None:
    weights = {alias: {to: 1.0} if isinstance(to, int) else to for alias, to in targets.items()}
    registry.change("sql", Change(aliases=weights))


def target(registry: Registry, alias: str = "prod") -> int:
    return registry.resolve(f"sql@{alias}").version


def test_alias_stands_for_its_version_until_it_is_moved(versions: Registry) -> None:
    point(versions, prod=1)
    assert versions.resolve("sql@prod").id == "sql@1"
    point(versions, prod=2)
    assert versions.resolve("sql@prod").id == "sql@2"
    assert versions.resolve("sql").id == "sql@3"


def test_alias_that_is_removed_is_not_found(versions: Registry) -> None:
    point(versions, prod=1, other=2)
    point(versions, prod=None)
    with pytest.raises(AdapterNotFound, match="sql@prod"):
        versions.resolve("sql@prod")
    assert versions.state("sql").aliases == {"other": {2: 1.0}}


@pytest.mark.parametrize("alias", ["3", "sha256", "Prod", "a/b", ""])
def test_alias_outside_the_grammar_is_refused(versions: Registry, alias: str) -> None:
    with pytest.raises(InvalidName, match="alias"):
        versions.change("sql", Change(aliases={alias: {1: 1.0}}))


def test_change_that_is_wrong_somewhere_changes_nothing(versions: Registry) -> None:
    point(versions, prod=1)
    before = versions.state("sql")
    wrong: dict[str, Mapping[int, float] | None] = {"a": {2: 1.0}, "b": {3: 0.5, 7: 0.5}}
    with pytest.raises(AdapterNotFound, match="sql@7"):
        versions.change("sql", Change(aliases=wrong, pinned=True, metadata={"task": "x"}))
    with pytest.raises(AdapterNotFound, match="sql@none"):
        versions.change("sql", Change(aliases={"prod": {2: 1.0}, "none": None}))
    with pytest.raises(InvalidMetadata, match="task"):
        versions.change("sql", Change(aliases={"prod": {2: 1.0}}, metadata={"task": 1}))
    assert versions.state("sql") == before


def test_weights_become_shares(versions: Registry) -> None:
    point(versions, prod={2: 1.0, 1: 3.0})
    assert versions.state("sql").aliases == {"prod": {1: 0.75, 2: 0.25}}


def test_split_is_sticky_and_has_its_shares(versions: Registry) -> None:
    point(versions, prod=CANARY)
    keys = [f"user-{number}" for number in range(150)]
    answers = [versions.resolve("sql@prod", key).version for key in keys]
    assert answers == [versions.resolve("sql@prod", key).version for key in keys]
    shares = Counter(chosen(CANARY, "sql", "prod", str(key)) for key in range(20_000))
    assert math.isclose(shares[2] / shares.total(), 0.1, abs_tol=0.01)
    assert Counter(answers)[1] > Counter(answers)[2] > 0


def test_split_without_a_key_is_its_largest_share() -> None:
    assert chosen(CANARY, "sql", "prod", None) == 1
    assert chosen({1: 0.5, 2: 0.5}, "sql", "prod", None) == 2


def test_aliases_split_independently_of_each_other() -> None:
    half = {1: 0.5, 2: 0.5}
    keys = [str(number) for number in range(1000)]
    same = sum(chosen(half, "sql", "a", key) == chosen(half, "sql", "b", key) for key in keys)
    assert 400 < same < 600


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.49), st.text(max_size=20))
def test_growing_a_canary_moves_nobody_away_from_it(share: float, more: float, key: str) -> None:
    before = chosen({3: 1 - share, 4: share}, "sql", "prod", key)
    after = chosen({3: 1 - share - more, 4: share + more}, "sql", "prod", key)
    assert after == 4 or before == 3


@given(st.dictionaries(st.integers(1, 99), st.floats(1e-6, 1e6), min_size=1), st.text())
def test_every_key_gets_a_version_of_the_split(weights: dict[int, float], key: str) -> None:
    total = sum(weights.values())
    shares = {version: weight / total for version, weight in weights.items()}
    assert chosen(shares, "sql", "prod", key) in shares


def test_rollbacks_lead_back_and_never_to_what_was_left(versions: Registry) -> None:
    for version in (1, 2, 3):
        point(versions, prod=version)
    for wanted in (2, 1):
        state = versions.roll_back("sql", "prod")
        assert state.aliases == {"prod": {wanted: 1.0}}
    with pytest.raises(NoEarlierTarget, match="sql@prod"):
        versions.roll_back("sql", "prod")
    assert target(versions) == 1


def test_rollback_of_a_move_after_a_rollback_returns_to_where_it_was(versions: Registry) -> None:
    point(versions, prod=1)
    point(versions, prod=2)
    versions.roll_back("sql", "prod")
    point(versions, prod=3)
    versions.roll_back("sql", "prod")
    assert target(versions) == 1


def test_rollback_restores_a_split_and_a_removed_alias(versions: Registry) -> None:
    point(versions, prod=CANARY)
    point(versions, prod=2)
    assert versions.roll_back("sql", "prod").aliases == {"prod": CANARY}
    point(versions, prod=None)
    assert versions.roll_back("sql", "prod").aliases == {"prod": CANARY}


def test_moving_an_alias_to_where_it_is_leaves_its_rollback(versions: Registry) -> None:
    for version in (1, 2, 2):
        point(versions, prod=version)
    versions.roll_back("sql", "prod")
    assert target(versions) == 1


def test_rollback_passes_over_versions_that_are_gone(versions: Registry) -> None:
    for version in (1, 2, 3):
        point(versions, prod=version)
    versions.delete("sql@2")
    versions.roll_back("sql", "prod")
    assert target(versions) == 1


def test_rollback_of_an_unknown_alias_is_not_found(versions: Registry) -> None:
    with pytest.raises(AdapterNotFound, match="sql@prod"):
        versions.roll_back("sql", "prod")
    with pytest.raises(AdapterNotFound, match="other@prod"):
        versions.roll_back("other", "prod")


@pytest.mark.parametrize("reference", ["sql@2", "sql", "sql@prod", "sql@canary"])
def test_version_that_an_alias_points_at_is_not_removed(versions: Registry, reference: str) -> None:
    point(versions, prod=2, canary={2: 0.5, 3: 0.5}, other=1)
    before = versions.state("sql")
    with pytest.raises(AdapterInUse) as caught:
        versions.delete(reference)
    assert {"prod", "canary"} <= {*caught.value.aliases}
    assert versions.state("sql") == before


def test_forced_removal_takes_the_aliases_with_it(versions: Registry) -> None:
    point(versions, prod=2, canary={2: 0.5, 3: 0.5}, other=1)
    assert [record.id for record in versions.delete("sql@2", force=True)] == ["sql@2"]
    assert versions.state("sql").aliases == {"other": {1: 1.0}}
    versions.delete("sql", force=True)
    with pytest.raises(AdapterNotFound):
        versions.state("sql")
    versions.publish(draft(number=9))
    assert versions.state("sql").aliases == {}


def test_version_without_an_alias_is_removed_beside_others(versions: Registry) -> None:
    point(versions, prod=2)
    assert [record.id for record in versions.delete("sql@1")] == ["sql@1"]
    assert target(versions) == 2


def test_pin_belongs_to_the_name_and_stays(versions: Registry) -> None:
    assert not versions.state("sql").pinned
    assert versions.change("sql", Change(pinned=True)).pinned
    versions.publish(draft(number=4))
    assert versions.state("sql").pinned
    assert not versions.change("sql", Change(pinned=False)).pinned


def test_metadata_is_changed_field_by_field_and_found(versions: Registry) -> None:
    change = Change(metadata={"task": None, "tags": ["new"], "own": {"a": 1}})
    versions.change("sql@2", change)
    nested = {"nested": draft().metadata["nested"]}
    assert versions.resolve("sql@2").metadata == {**nested, "tags": ["new"], "own": {"a": 1}}
    assert versions.resolve("sql@3").metadata == draft().metadata


def test_aliases_moved_at_once_each_have_one_of_the_targets(
    versions: Registry, open_registry: Callable[[], Registry]
) -> None:
    both = [versions, open_registry()]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: point(both[n % 2], prod=n % 3 + 1), range(30)))
        seen = set(pool.map(lambda n: target(both[n % 2]), range(12)))
    assert len(seen) == 1
    for _ in range(30):
        try:
            versions.roll_back("sql", "prod")
        except NoEarlierTarget:
            return
    pytest.fail("more changes than were made")


def test_no_alias_outlives_a_version_that_is_removed_at_the_same_time(
    versions: Registry, open_registry: Callable[[], Registry]
) -> None:
    other = open_registry()
    for number in range(10, 22):
        version = versions.publish(draft(number=number)).record.version
        with ThreadPoolExecutor(2) as pool:
            moved = pool.submit(point, versions, prod=version)
            gone = pool.submit(other.delete, f"sql@{version}")
        outcomes = {type(moved.exception()), type(gone.exception())}
        assert outcomes in ({AdapterNotFound, type(None)}, {AdapterInUse, type(None)})

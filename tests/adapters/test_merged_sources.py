"""Merges as sources: what is known of them is bounded, whatever requests make up."""

from concurrent.futures import Executor
from typing import cast

import pytest
from memories import ManualPool

from adapters_store.merging.recipe import Recipe
from server.adapters import merged
from server.adapters.merged import MergedAdapters

ONE, TWO, OTHER = (f"sha256:{digit * 64}" for digit in "123")


@pytest.fixture
def sources() -> MergedAdapters:
    def never(asked: object) -> None:
        raise AssertionError(asked)

    return MergedAdapters(never, never, never, cast(Executor, ManualPool()))  # type: ignore[arg-type]


def recipe(*digests: str, density: float = 0.5) -> Recipe:
    return Recipe.build("ties", {"density": density}, [(digest, 1.0) for digest in digests])


def test_a_member_knows_its_merges_once(sources: MergedAdapters) -> None:
    both, alone = sources.source(recipe(ONE, TWO)), sources.source(recipe(ONE))
    seen = sources.source(recipe(TWO), through=OTHER)
    assert sources.forget(ONE) == {both.digest, alone.digest}
    assert sources.forget(OTHER) == {seen.digest}
    assert sources.forget(TWO) == set()


def test_weights_without_number_are_no_memory_without_bound(
    sources: MergedAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "RECIPES_KNOWN", 3)
    made = [sources.source(recipe(ONE, density=1 / n)).digest for n in (1, 2, 3, 1, 4)]
    assert sources.forget(ONE) == set(made[2:])

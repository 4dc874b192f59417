"""Fixtures of the tests of merging."""

from collections.abc import Iterator

import pytest

from adapters_store.merging import space


@pytest.fixture(scope="module", params=[50, space.PLACES_PER_PANEL], ids=["small", "large"])
def panel_size(request: pytest.FixtureRequest) -> Iterator[int]:
    """Panels of a few rows, so that small layers have many; and those of every day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "PLACES_PER_PANEL", request.param)
        yield request.param

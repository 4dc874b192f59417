"""Small real engines, one per kind of base, shared by the tests of this folder."""

from functools import cache
from pathlib import Path

import pytest
from engines import KINDS, MakeEngine, RealEngine, make_adapter
from tiny_models import make_tiny_checkpoint

from server.model.checkpoint import open_checkpoint


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """A real engine over the tiny base of a variation, with 32 adapters of mixed kinds."""

    @cache
    def make(variation: str) -> RealEngine:
        directory: Path = tmp_path_factory.mktemp(variation)
        real = RealEngine(open_checkpoint(str(make_tiny_checkpoint(directory, variation))))
        for index in range(32):
            every = list(real.identity.layers) if index % 3 == 0 else None
            kind = KINDS[index % len(KINDS)]
            real.publish(make_adapter(real.identity, index, kind, every))
        return real

    return make

"""Small real engines, one per kind of base, shared by the tests of this folder."""

from functools import cache
from pathlib import Path

import pytest
from engines import MakeEngine, RealEngine
from tiny_adapters import make_adapter
from tiny_models import make_tiny_checkpoint

from server.model.checkpoint import open_checkpoint

KINDS = ("element", "block 16x16", "block 1x16", "low_rank")


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """A real engine over the tiny base of a variation, with 32 adapters of mixed kinds."""

    @cache
    def make(variation: str) -> RealEngine:
        directory: Path = tmp_path_factory.mktemp(variation)
        real = RealEngine(open_checkpoint(str(make_tiny_checkpoint(directory, variation))))
        for index in range(32):
            names = [n for n in real.identity.layers if index % 3 == 0 or n.endswith("qkv_proj")]
            kind = KINDS[index % len(KINDS)]
            made = make_adapter(real.identity, kind, index, names, spread=0.1, keep_ratio=0.05)
            real.publish(made)
        return real

    return make

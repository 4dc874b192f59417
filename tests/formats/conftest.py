"""A tiny checkpoint to export for, and one that was fine-tuned from it."""

from pathlib import Path

import pytest
from tiny_models import make_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-3. Not to be written to."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), "phi3-mini")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with split layers and a tied head. Not to be written to."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def tiny_sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-3 in several files. Not to be written to."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("sharded"), "sharded")

"""A tiny base, one thread, and quiet libraries."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to: tests share it."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split q, k, v and gate, up; an output head that is the embedding."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tied"), "llama")


@pytest.fixture(scope="session", autouse=True)
def frozen_libraries() -> Iterator[None]:
    """Each run collects garbage: what libraries made at their import need not be looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order: results are the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

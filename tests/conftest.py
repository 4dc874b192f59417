"""Fixtures that more than one area shares."""

from pathlib import Path

import pytest

from server.model.demo_base import ensure_demo_base

DATA_DIR = Path(__file__).parents[1] / "data"  # kept between runs, ignored by git


@pytest.fixture(scope="session")
def demo_base() -> Path:
    """The demo base's checkpoint, made on first use."""
    return ensure_demo_base(DATA_DIR)

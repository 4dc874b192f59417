"""Fixtures that more than one area shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import NewDatabase, postgres_programs, running_postgres
from hypothesis import HealthCheck, settings

from server.model.demo_base import ensure_demo_base

# Triton's kernels are interpreted here, if its first import finds this.
os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

DATA_DIR = Path(__file__).parents[1] / "data"  # kept between runs, ignored by git


@pytest.fixture(scope="session")
def demo_base() -> Path:
    """The demo base's checkpoint, made on first use."""
    return ensure_demo_base(DATA_DIR)


@pytest.fixture(scope="session")
def new_postgres_database() -> Iterator[NewDatabase]:
    """Makes empty databases of a real PostgreSQL."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    with running_postgres(programs) as new_database:
        yield new_database

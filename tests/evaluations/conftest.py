"""Registries on either database, and a plan to vary."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters_store.registry import Registry
from server.adapters.composition import BASE, Composition
from server.evaluation.plan import Plan, TaskRows
from server.evaluation.subjects import Subject

MakePlan = Callable[..., Plan]


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'registry.sqlite'}"
    else:
        url = request.getfixturevalue("new_postgres_database")()
    opened = Registry(url)
    yield opened
    opened.close()


@pytest.fixture
def make_plan() -> MakePlan:
    """A plan of two subjects and two tasks; fields replace its own."""

    def make(**fields: Any) -> Plan:
        digest = "sha256:" + "1" * 64
        version = Subject(
            name="sql@3",
            asked="sql@prod",
            id="sql@3",
            digest=digest,
            composition=Composition.linear([(digest, 1.0)]),
            sources=({"adapter": digest},),
        )
        defaults: dict[str, Any] = {
            "subjects": [Subject("base", "base", None, None, BASE, ()), version],
            "tasks": [
                TaskRows("small", "data-1", "sha256:a", 3, None, 0),
                TaskRows("large", "data-2", "sha256:b", 50, 4, 0),
            ],
            "metrics": ["rouge_l", "loss"],
            "generation": {"max_tokens": 8, "temperature": 0.7, "stop": ["\n"], "seed": 5},
            "prompt_mode": "raw",
            "seed": 0,
            "confidence": 0.95,
            "priority": 1,
            "reference": "base",
            "base": {"name": "tiny", "digest": "sha256:c"},
            "promotion": None,
        }
        return Plan(**{**defaults, **fields})

    return make

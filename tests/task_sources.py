"""Excerpts of the packages that tasks are made from, so that tests need no network."""

import gzip
import json
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_store.tasks.errors import PackageUnavailable
from adapters_store.tasks.fetching import Cache
from adapters_store.tasks.packages import Package
from adapters_store.tasks.questions import Question
from adapters_store.tasks.table import named
from adapters_store.tasks.task import Task

SOURCES = Path(__file__).parent / "tasks" / "data" / "sources"


def members_of(packages: Sequence[Package]) -> Mapping[str, bytes]:
    """The members of the excerpts of all `packages` that have files."""
    return ChainMap(*(_members(package) for package in packages if package.file))


def _members(package: Package) -> dict[str, bytes]:
    texts: dict[str, str] = json.loads((SOURCES / f"{package.name}.json").read_text())
    return {
        name: gzip.compress(text.encode()) if name.endswith(".dz") else text.encode()
        for name, text in texts.items()
    }


def questions_of(name: str) -> list[Question]:
    """All questions that the recipe of the task `name` asks about the excerpts."""
    task: Task[Any] = named([name])[0]
    return list(task.questions(task.read(members_of(task.packages))))


class Excerpts(Cache):
    """A cache of the excerpts. The packages called `missing` cannot be had."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        super().__init__(SOURCES)
        self._missing = missing

    def members(self, packages: Sequence[Package]) -> Mapping[str, bytes]:
        for package in packages:
            if package.name in self._missing:
                raise PackageUnavailable(package.name, package.version, "fetch", "no such package")
        return members_of(packages)

    def obtain(self, package: Package) -> Path | None:
        return SOURCES / f"{package.name}.json" if package.file else None

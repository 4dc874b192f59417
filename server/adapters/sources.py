"""Where an adapter comes from when no tier of memory holds it."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

from adapters_store.adapter import SparseAdapter


class Source(Protocol):
    """Something that can be had by its digest, in every tier."""

    @property
    def digest(self) -> str: ...

    def start(self) -> Future[SparseAdapter]:
        """Begin to load or to compute it, elsewhere than in this thread."""


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter on disk; `load` reads and verifies it, in a thread of `pool`."""

    digest: str
    load: Callable[[str], SparseAdapter]
    pool: Executor

    def start(self) -> Future[SparseAdapter]:
        return self.pool.submit(self.load, self.digest)

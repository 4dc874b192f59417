"""Where an adapter comes from when no tier of memory holds it."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

from adapters_store.adapter import SparseAdapter
from server.adapters.composition import prototypes_id
from server.adapters.journals import JournalRoom, changed_entries, journal_id
from server.adapters.prototypes import Prototypes, make_prototypes

Loaded = SparseAdapter | Prototypes | JournalRoom


class Source(Protocol):
    """Something that can be had by its digest, in every tier."""

    @property
    def digest(self) -> str: ...

    def start(self) -> Future[Loaded]:
        """Begin to load or to compute it, elsewhere than in this thread."""


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter on disk; `load` reads and verifies it, in a thread of `pool`."""

    digest: str
    load: Callable[[str], SparseAdapter]
    pool: Executor

    def start(self) -> Future[Loaded]:
        return self.pool.submit(self.load, self.digest)


@dataclass(frozen=True, slots=True)
class PrototypesOf:
    """The prototypes of what `adapter` gives, made in a thread of `pool`.

    `fetch` has the adapter from the host's tier, where it is loaded to or is already.
    """

    adapter: Source
    fetch: Callable[[Source], Future[Loaded]]
    pool: Executor

    @property
    def digest(self) -> str:
        return prototypes_id(self.adapter.digest)

    def start(self) -> Future[Loaded]:
        made: Future[Loaded] = Future()
        self.fetch(self.adapter).add_done_callback(lambda loaded: self._make_of(loaded, made))
        return made

    def _make_of(self, loaded: Future[Loaded], made: Future[Loaded]) -> None:
        error = loaded.exception()
        if error is not None:
            made.set_exception(error)
        else:
            self.pool.submit(self._make, loaded.result(), made)

    def _make(self, adapter: Loaded, made: Future[Loaded]) -> None:
        assert isinstance(adapter, SparseAdapter), f"{self.adapter.digest} is no adapter"
        try:
            prototypes = make_prototypes(adapter)
        except BaseException as error:
            made.set_exception(error)
        else:
            made.set_result(prototypes)


@dataclass(frozen=True, slots=True)
class JournalOf:
    """Room for the journal of what `adapter` gives, to be leased by who is to be fused with it.

    `size` tells the journal's bytes by how many numbers of each layer are changed. `entries_of`
    knows those numbers of what is on the device; of what is not, `fetch` has the adapter from the
    host's tier to be counted.
    """

    adapter: Source
    fetch: Callable[[Source], Future[Loaded]]
    size: Callable[[Mapping[str, int]], int]
    entries_of: Callable[[str], Mapping[str, int] | None]

    @property
    def digest(self) -> str:
        return journal_id(self.adapter.digest)

    def start(self) -> Future[Loaded]:
        sized: Future[Loaded] = Future()
        if (entries := self.entries_of(self.adapter.digest)) is not None:
            sized.set_result(JournalRoom(self.size(entries)))
            return sized
        self.fetch(self.adapter).add_done_callback(lambda loaded: self._size(loaded, sized))
        return sized

    def _size(self, loaded: Future[Loaded], sized: Future[Loaded]) -> None:
        try:
            adapter = loaded.result()
            assert isinstance(adapter, SparseAdapter), f"{self.adapter.digest} is no adapter"
            room = JournalRoom(self.size(changed_entries(adapter)))
        except BaseException as error:
            sized.set_exception(error)
        else:
            sized.set_result(room)

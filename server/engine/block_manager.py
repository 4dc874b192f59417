"""Pages of the KV cache as ints: who holds them, which are free, which can be found again by key.

A page is held (count > 0) or free. A free page may still be keyed: its contents are whole and a new
sequence may take it up again, until `allocate` hands it out for other contents, oldest first.
Contiguous ownership of a sequence's tokens, page size 4, 10 tokens computed:

    tokens   0 1 2 3 | 4 5 6 7 | 8 9 . .
    pages       a         b         c        a, b keyed (full); c held, not keyed

The memory of pages may be lent to adapters: `withdraw` takes free pages out of circulation. This
happens in other threads, so both sides work under one lock, which is the block manager's.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol

from server.engine.config import EngineConfig


class Neighbour(Protocol):
    """Whoever shares the pages' memory."""

    def give_way(self, num_pages: int) -> None:
        """Restore that many pages if it can be done at once; they are wanted now."""

    def pages_freed(self) -> None:
        """There are free pages again."""


class BlockManager:
    """Bookkeeping over page ids. `allocate` and `take` hold pages, `release` lets them go."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self._counts = [0] * num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))
        self._key_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._withdrawn: set[int] = set()
        self.lock = threading.RLock()
        self.neighbour: Neighbour | None = None

    @classmethod
    def of(cls, config: EngineConfig) -> "BlockManager":
        return cls(config.num_pages, config.page_size)

    @property
    def num_free(self) -> int:
        """Pages that `allocate` could hand out, keyed ones included."""
        return len(self._free)

    @property
    def num_held(self) -> int:
        return self.num_pages - len(self._free) - len(self._withdrawn)

    @property
    def num_withdrawn(self) -> int:
        """Pages whose memory is lent out."""
        return len(self._withdrawn)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that `num_tokens` tokens need."""
        return -(-num_tokens // self.page_size)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Pages of the longest known prefix of `keys`. Holds nothing: follow with `take`."""
        pages: list[int] = []
        for key in keys:
            if (page := self._page_of.get(key)) is None:
                break
            pages.append(page)
        return pages

    def num_free_among(self, pages: Iterable[int]) -> int:
        """How many of `pages` are free, so that taking them leaves fewer to allocate."""
        return sum(self._counts[page] == 0 for page in pages)

    def take(self, pages: Iterable[int]) -> None:
        """Hold pages that `find` gave."""
        for page in pages:
            if self._counts[page] == 0:
                del self._free[page]
            self._counts[page] += 1

    def has_room(self, count: int) -> bool:
        """Whether `count` pages are free, the neighbour's idle ones brought back if need be."""
        if count > len(self._free) and self.neighbour is not None:
            self.neighbour.give_way(count - len(self._free))
        return count <= len(self._free)

    def allocate(self, count: int) -> list[int] | None:
        """Hold `count` pages with no contents, or None (and no change) where there are fewer."""
        if not self.has_room(count):
            return None
        pages = [self._pop_oldest() for _ in range(count)]
        for page in pages:
            self._counts[page] = 1
        return pages

    def release(self, pages: Sequence[int]) -> None:
        """Let go of a sequence's pages. Its last page becomes the first to be handed out again."""
        for page in reversed(pages):
            assert self._counts[page] > 0, f"page {page} is released more often than held"
            self._counts[page] -= 1
            if self._counts[page] == 0:
                self._free[page] = None
                if page not in self._key_of:
                    self._free.move_to_end(page, last=False)
        if pages and self.neighbour is not None:
            self.neighbour.pages_freed()

    def withdraw(self, count: int) -> list[int] | None:
        """Take `count` free pages out of circulation, or None (and no change)."""
        if count > len(self._free):
            return None
        pages = [self._pop_oldest() for _ in range(count)]
        self._withdrawn.update(pages)
        return pages

    def restore(self, pages: Sequence[int]) -> None:
        """Bring withdrawn pages back, without contents."""
        for page in pages:
            self._withdrawn.remove(page)
            self._free[page] = None
            self._free.move_to_end(page, last=False)

    def publish(self, page: int, key: bytes) -> None:
        """`page` now holds the whole contents that `key` names; the first page of a key stays."""
        assert self._counts[page] > 0, f"page {page} is published while free"
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the books agree with the sequences' page tables."""
        held = Counter(page for table in tables for page in table)
        for page, count in enumerate(self._counts):
            assert count == held[page], f"page {page}: count {count}, held {held[page]} times"
            places = (count > 0) + (page in self._free) + (page in self._withdrawn)
            assert places == 1, f"page {page}: count {count}, in {places} places"
        assert {page: key for key, page in self._page_of.items()} == self._key_of, "keys off"

    def _pop_oldest(self) -> int:
        page, _ = self._free.popitem(last=False)
        if (key := self._key_of.pop(page, None)) is not None:
            del self._page_of[key]
        return page

"""Pages: held or free, found by key, handed out oldest first, never lost."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.engine.block_manager import BlockManager


@pytest.mark.parametrize(
    ("num_tokens", "num_pages"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)]
)
def test_pages_for_rounds_up(num_tokens: int, num_pages: int) -> None:
    assert BlockManager(8, page_size=4).pages_for(num_tokens) == num_pages


def test_allocate_gives_all_or_nothing() -> None:
    blocks = BlockManager(3, page_size=4)
    assert blocks.allocate(4) is None
    assert blocks.num_free == 3
    assert blocks.allocate(3) == [0, 1, 2]
    assert blocks.allocate(1) is None
    assert blocks.allocate(0) == []


def test_released_page_is_found_by_its_key_until_it_is_reused() -> None:
    blocks = BlockManager(1, page_size=4)
    [page] = blocks.allocate(1) or []
    blocks.publish(page, b"key")
    blocks.release([page])
    assert blocks.find([b"key"]) == [page]
    assert blocks.allocate(1) == [page]
    assert blocks.find([b"key"]) == []


def test_find_stops_at_the_first_unknown_key() -> None:
    blocks = BlockManager(3, page_size=4)
    pages = blocks.allocate(3) or []
    for page, key in zip(pages, (b"a", b"b", b"c"), strict=True):
        blocks.publish(page, key)
    assert blocks.find([b"a", b"x", b"c"]) == pages[:1]


def test_first_page_of_a_key_stays() -> None:
    blocks = BlockManager(2, page_size=4)
    first, second = blocks.allocate(2) or []
    blocks.publish(first, b"same")
    blocks.publish(second, b"same")
    assert blocks.find([b"same"]) == [first]


def test_pages_without_contents_are_reused_before_cached_ones() -> None:
    blocks = BlockManager(2, page_size=4)
    cached, plain = blocks.allocate(2) or []
    blocks.publish(cached, b"key")
    blocks.release([cached, plain])
    assert blocks.allocate(1) == [plain]


def test_the_end_of_a_sequence_is_evicted_before_its_beginning() -> None:
    blocks = BlockManager(2, page_size=4)
    first, second = blocks.allocate(2) or []
    blocks.publish(first, b"first")
    blocks.publish(second, b"second")
    blocks.release([first, second])
    assert blocks.allocate(1) == [second]
    assert blocks.find([b"first"]) == [first]


def test_releasing_more_than_was_held_is_caught() -> None:
    blocks = BlockManager(1, page_size=4)
    [page] = blocks.allocate(1) or []
    blocks.release([page])
    with pytest.raises(AssertionError, match="more often than held"):
        blocks.release([page])


def test_integrity_names_the_page_that_is_off() -> None:
    blocks = BlockManager(2, page_size=4)
    blocks.allocate(1)
    with pytest.raises(AssertionError, match="page 0: count 1, held 0 times"):
        blocks.check_integrity([])


class Pages(RuleBasedStateMachine):
    """Any order of calls keeps the books right, and a key always leads to its own contents."""

    @initialize(num_pages=st.integers(1, 12))
    def start(self, num_pages: int) -> None:
        self.blocks = BlockManager(num_pages, page_size=4)
        self.tables: list[list[int]] = []
        self.contents: dict[int, bytes] = {}

    @rule(count=st.integers(0, 5))
    def allocate(self, count: int) -> None:
        free = self.blocks.num_free
        pages = self.blocks.allocate(count)
        assert (pages is None) == (count > free)
        if pages is not None:
            self.tables.append(pages)
            for page in pages:
                self.contents.pop(page, None)

    @rule(data=st.data(), key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def publish(self, data: st.DataObject, key: bytes) -> None:
        held = sorted({page for table in self.tables for page in table} - self.contents.keys())
        if held and key not in self.contents.values():
            page = data.draw(st.sampled_from(held))
            self.contents[page] = key
            self.blocks.publish(page, key)

    @rule(keys=st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=4))
    def take(self, keys: list[bytes]) -> None:
        pages = self.blocks.find(keys)
        assert [self.contents[page] for page in pages] == keys[: len(pages)]
        self.blocks.take(pages)
        self.tables.append(pages)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.tables:
            self.blocks.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "blocks"):
            self.blocks.check_integrity(self.tables)
            assert self.blocks.num_held == len({p for table in self.tables for p in table})


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

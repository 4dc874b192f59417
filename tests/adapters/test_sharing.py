"""Work shared with a worker that may be free: all of it is done, by whoever is there."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from memories import ADAPTERS, KERNELS, ManualPool

from server.adapters.delta import make_resident, resident_bytes
from server.adapters.sharing import share


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_item_is_made_once_and_in_order(count: int) -> None:
    made: list[int] = []

    def double(item: int) -> int:
        made.append(item)
        return 2 * item

    with ThreadPoolExecutor(2) as pool:
        assert share(pool, double, range(count)) == [2 * item for item in range(count)]
    assert sorted(made) == list(range(count))


def test_nobody_waits_for_a_worker_that_is_not_free() -> None:
    pool = ManualPool()  # runs nothing
    assert share(pool, str, range(3)) == ["0", "1", "2"]
    pool.run()


def test_workers_of_one_pool_that_share_never_wait_for_each_other() -> None:
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(share, pool, str, range(20)) for _ in range(20)]
        assert [own.result(30) for own in asked] == [[str(n) for n in range(20)]] * 20


def test_a_free_worker_joins() -> None:
    both = threading.Barrier(2)

    def together(item: int) -> int:
        both.wait(30)  # fails unless two threads have an item each
        return item

    with ThreadPoolExecutor(2) as pool:
        assert share(pool, together, range(4)) == [0, 1, 2, 3]


def test_what_an_item_raises_is_raised() -> None:
    def fail_at_two(item: int) -> int:
        if item == 2:
            raise ValueError("the second")
        return item

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="second"):
        share(pool, fail_at_two, range(5))


def test_an_adapter_laid_out_by_two_is_the_same() -> None:
    with ThreadPoolExecutor(2) as pool:
        shared = make_resident("a0", ADAPTERS["a0"], KERNELS, each=partial(share, pool))
    alone = make_resident("a0", ADAPTERS["a0"], KERNELS)
    assert shared.operands.keys() == alone.operands.keys()
    assert (shared.num_bytes, shared.entries) == (alone.num_bytes, alone.entries)


def test_bytes_told_by_two_are_those_of_the_operands() -> None:
    with ThreadPoolExecutor(2) as pool:
        told = resident_bytes(ADAPTERS["a0"], KERNELS, partial(share, pool))
    assert told == make_resident("a0", ADAPTERS["a0"], KERNELS).num_bytes

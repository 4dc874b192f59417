"""One thread's work shared with a worker that happens to be free, and never waited for."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def share(pool: Executor, make: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """`make` of every item, in order, by this thread and one of `pool` that joins if it can.

    This thread may be one of `pool`: it does whatever nobody else has begun, so that the last free
    worker never waits for another. Raises what `make` raised of the first item that failed.
    """
    left = deque((item, Future[Made]()) for item in items)
    made = [future for _, future in left]
    if len(left) > 1:
        pool.submit(_drain, left, make)
    _drain(left, make)
    return [future.result() for future in made]


def _drain(left: "deque[tuple[Item, Future[Made]]]", make: Callable[[Item], Made]) -> None:
    while True:
        try:
            item, future = left.popleft()  # atomic
        except IndexError:
            return
        try:
            future.set_result(make(item))
        except BaseException as error:
            future.set_exception(error)

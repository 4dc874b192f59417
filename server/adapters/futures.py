"""Waiting for several futures at once, in nobody's thread."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


def when_all(futures: Sequence[Future[Any]], then: Callable[[BaseException | None], None]) -> None:
    """Call `then` once when all of `futures` are done, with the first error of them if any."""
    if not futures:
        then(None)
        return
    left = threading.Semaphore(len(futures) - 1)
    # Taken out to be called: a future keeps its callbacks, and must not keep itself through them.
    waiting = [(futures, then)]

    def one_is_done(_: Future[Any]) -> None:
        if not left.acquire(blocking=False):
            done, call = waiting.pop()
            call(next((f.exception() for f in done if f.exception() is not None), None))

    for future in futures:
        future.add_done_callback(one_is_done)

"""Results by key: computed once, however many ask at the same time, and the last ones kept.

Knows nothing of what is computed.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """The results of `compute` for the `size` keys last asked for. Safe for many threads."""

    def __init__(self, compute: Callable[[str], Result], size: int) -> None:
        self._compute, self._size = compute, size
        self._results: OrderedDict[str, Future[Result]] = OrderedDict()  # longest unasked first
        self._lock = threading.Lock()

    def __call__(self, key: str) -> Result:
        """The result for `key`, or whatever computing it raised; a failure is not kept."""
        future, is_first = self._asked_for(key)
        if is_first:
            try:
                future.set_result(self._compute(key))
            except BaseException as error:
                with self._lock:
                    self._results.pop(key, None)
                future.set_exception(error)
        return future.result()

    def _asked_for(self, key: str) -> tuple[Future[Result], bool]:
        """What will be the result, and whether it is the caller's to compute."""
        with self._lock:
            future = self._results.get(key)
            is_first = future is None
            if future is None:
                future = self._results[key] = Future()
            self._results.move_to_end(key)
            if len(self._results) > self._size:
                self._results.popitem(last=False)
            return future, is_first

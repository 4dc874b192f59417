"""Threads for work beside the engine: each computes on one core, and may be told to stand back."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Made = TypeVar("Made")


def start_pool(name: str, workers: int, niceness: int = 0) -> ThreadPoolExecutor:
    """A pool whose threads run torch on one core, at `niceness` (0: as the engine; 19: last).

    torch keeps one number of threads per thread, but what it is told also becomes the default of
    threads that come later. So the workers start here, and the default is put back.
    """
    default = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        _stand_back(niceness)
        started.wait()

    pool = ThreadPoolExecutor(workers, name, initializer=begin)
    for _ in range(workers):
        pool.submit(int)  # no worker is idle before the barrier, so each submission starts one
    started.wait()
    torch.set_num_threads(default)
    return pool


def in_passing(make: Callable[[], Made]) -> Made:
    """What `make` gives, computed by a thread that is gone afterwards, and its threads with it.

    OpenMP keeps a team for each thread that ever computed in parallel. While teams together have
    more threads than there are cores, all sleep between any two loops instead of waiting awake, and
    the engine's steps take a third longer. So its own team is to be the only one that stays.
    """
    with ThreadPoolExecutor(1, "passing") as passing:
        return passing.submit(make).result()


@contextmanager
def one_core_each() -> Iterator[None]:
    """Meanwhile this thread computes on one core, and those that first use torch.

    The web server's threads stay, and what they check and measure of an uploaded adapter would give
    them teams of their own (`in_passing`).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stand_back(niceness: int) -> None:
    """Linux has priorities per thread; elsewhere a thread has its process's."""
    if niceness and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)

"""Threads for work beside the engine: each computes on one core, and may be told to stand back."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch


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


def _stand_back(niceness: int) -> None:
    """Linux has priorities per thread; elsewhere a thread has its process's."""
    if niceness and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)

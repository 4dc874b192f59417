"""Other processes that do the work: several at once, each ended together with this one.

Each run has a process of its own, so that its peak memory is its own. Knows nothing of what runs.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any

INTARSIA = str(Path(sys.executable).parent / "intarsia")
TOLD_LINES = 12  # of the log of a process that failed


class ProcessFailed(Exception):
    """A process ended with another status than 0."""

    def __init__(self, command: Sequence[str], status: int, log: Path) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD_LINES:]
        super().__init__(f"{' '.join(command)}: status {status}, see {log}\n" + "\n".join(lines))
        self.command, self.status, self.log = command, status, log


class Stopped(Exception):
    """The work was told to end before this process began or came to its end."""


class Processes:
    """The processes that are running now, each with one thread of arithmetic."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopping = Lock(), Event()

    def run(self, command: Sequence[str], folder: Path) -> None:
        """Run `command` to its end; what it prints is added to `folder/process.log`.

        Only one process at a time works in `folder`, even if a killed caller left one behind: its
        lock ends with it. Raises ProcessFailed and Stopped.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "process.log"
        with (folder / "lock").open("w") as lock, log.open("ab") as printed:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status = self._start(command, printed, lock.fileno()).wait()
        if self._stopping.is_set():
            raise Stopped(folder.name)
        if status:
            raise ProcessFailed(command, status, log)

    def _start(self, command: Sequence[str], printed: Any, lock: int) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._stopping.is_set():
                raise Stopped(command[0])
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                pass_fds=(lock,),
            )
            self._running = {p for p in self._running if p.poll() is None} | {process}
            return process

    def stop(self) -> None:
        """Ask every process to end, which trainings do with a checkpoint; let none begin."""
        with self._lock:
            self._stopping.set()
            for process in self._running:
                process.terminate()


def do_all(jobs: Iterable[Callable[[], None]], processes: Processes, workers: int) -> None:
    """Do the jobs, `workers` at once. At the first failure or signal the others are stopped."""
    with _interrupting(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _interrupting() -> Iterator[None]:
    """Within, SIGTERM is what Ctrl-C is."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""A thread that does jobs: quiet beside the engine, and able to stop between two steps.

Knows the kinds of jobs by a table of handlers. Kinds that must not wait for each other have a
worker each. A job that a stopped or killed server leaves behind
is done again from its beginning, so handlers must be idempotent.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sqlalchemy.exc import DBAPIError

from server.errors import error_body
from server.jobs.slots import WorkerSlots
from server.jobs.store import JobRecord, JobStore, Within

NICENESS = 15  # of 19: the engine's threads come first
POLL_S = 5.0  # how soon a job is seen that another replica has taken in

Advance = Callable[[float], None]  # told the share done, 0 to 1; raises Interrupted
Handler = Callable[[JobRecord, Advance], Mapping[str, Any]]  # to the job's result

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """Raised by `Advance` in a handler, which lets it through: the job was cancelled, or the
    server stops."""


class JobWorker:
    """Owns the thread. Everything public may be called from any other thread.

    Of workers that share a database each has a name of its own while it lives. What is running
    under a name that nobody has was left behind by one that died, and is begun again.
    """

    def __init__(
        self,
        jobs: JobStore,
        handlers: Mapping[str, Handler],
        slots: WorkerSlots,
        niceness: int = NICENESS,
    ) -> None:
        """`niceness` is for work that computes without the interpreter's lock: a thread that
        waits for a core while it holds the lock holds everybody up.
        """
        self._jobs, self._handlers = jobs, handlers
        self._slots, self._niceness = slots, niceness
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        self._name = self._slots.take()
        self._take_back(self._name)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step in work; its job is queued again."""
        self._is_stopping.set()
        self._wake.set()
        self._thread.join()
        self._slots.release()

    @property
    def store(self) -> JobStore:
        """The jobs themselves, to look at and to cancel."""
        return self._jobs

    def submit(
        self, kind: str, request: Mapping[str, Any], within: Within | None = None
    ) -> JobRecord:
        """Queue a job of a kind that has a handler; its request is JSON. See JobStore.add."""
        assert kind in self._handlers, kind
        job = self._jobs.add(kind, request, within)
        self._wake.set()
        return job

    def _run(self) -> None:
        _become_quiet(self._niceness)
        may_hold_one = False  # a job that the database did not let go of
        while not self._is_stopping.is_set():
            self._wake.clear()  # before the look, so that what comes after it is seen
            try:
                if may_hold_one:
                    self._take_back(self._name)
                may_hold_one = False
                for name in self._slots.abandoned():
                    self._take_back(name)
                job = self._jobs.claim(self._handlers.keys(), self._name)
                if job is not None:
                    self._do(job)
                    continue
            except DBAPIError:
                may_hold_one = True
                logger.exception("the registry's database does not answer; jobs wait")
            self._wake.wait(POLL_S)

    def _take_back(self, name: str) -> None:
        requeued = self._jobs.requeue_of(name)
        if requeued:
            logger.info("%d jobs of %s are begun again", requeued, name)

    def _do(self, job: JobRecord) -> None:
        try:
            result = self._handlers[job.kind](job, lambda share: self._advance(job, share))
        except Interrupted:
            self._jobs.requeue(job.id)
        except DBAPIError:
            self._jobs.requeue(job.id)
            raise
        except Exception as error:
            logger.info("job %s failed: %s", job.id, error, exc_info=error)
            self._jobs.fail(job.id, error_body(error)["error"])
        else:
            self._jobs.succeed(job.id, result)

    def _advance(self, job: JobRecord, share: float) -> None:
        if self._is_stopping.is_set() or not self._jobs.advance(job.id, share):
            raise Interrupted(job.id)


def _become_quiet(niceness: int) -> None:
    """Give this thread a low priority and one core of torch's."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    others = torch.get_num_threads()
    torch.set_num_threads(1)
    # That also set what threads start with that have not used torch yet; this sets it back.
    restore = threading.Thread(target=torch.set_num_threads, args=(others,))
    restore.start()
    restore.join()

"""Jobs: done once, in order, by a quiet thread; they survive restarts and can be cancelled."""

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy.exc import OperationalError

from adapters_store.errors import AdapterNotFound
from adapters_store.registry.database import Database
from server.errors import error_body
from server.jobs import worker as worker_module
from server.jobs.slots import WorkerSlots
from server.jobs.store import JobRecord, JobStore
from server.jobs.worker import NICENESS, Advance, Handler, JobWorker

DEADLINE_S = 20.0


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite'}"
    made: str = request.getfixturevalue("new_postgres_database")()
    return made


@pytest.fixture
def jobs(url: str) -> Iterator[JobStore]:
    database = Database(url)
    yield JobStore(database)
    database.close()


class Steps:
    """A handler of two steps that waits between them until it is let go."""

    def __init__(self) -> None:
        self.is_between, self.proceed = threading.Event(), threading.Event()
        self.begun: list[Mapping[str, Any]] = []
        self.finished: list[Mapping[str, Any]] = []

    def __call__(self, job: JobRecord, advance: Advance) -> dict[str, Any]:
        request = job.request
        self.begun.append(request)
        advance(0.5)
        self.is_between.set()
        assert self.proceed.wait(DEADLINE_S)
        advance(1.0)
        self.finished.append(request)
        return {"did": request["what"]}


@pytest.fixture
def start(jobs: JobStore, tmp_path: Path) -> Iterator[Callable[..., JobWorker]]:
    """`start(machine, steps=handler)`: a worker that is stopped at the end."""
    started: list[JobWorker] = []

    def make(machine: str = "one", **handlers: Handler) -> JobWorker:
        worker = JobWorker(jobs, handlers, WorkerSlots(tmp_path / "slots", machine))
        worker.start()
        started.append(worker)
        return worker

    yield make
    for worker in started:
        worker.stop()


def ended(jobs: JobStore, job: JobRecord) -> JobRecord:
    """The job once it has ended."""
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        found = jobs.find(job.id)
        assert found is not None
        if found.has_ended:
            return found
        pause.wait(0.01)
    pytest.fail(f"{job.id} never ended")


Start = Callable[..., JobWorker]


def test_jobs_are_done_in_order_and_keep_their_results(jobs: JobStore, start: Start) -> None:
    steps = Steps()
    steps.proceed.set()
    worker = start(steps=steps)
    submitted = [worker.submit("steps", {"what": number}) for number in range(5)]
    assert [ended(jobs, job).result for job in submitted] == [{"did": n} for n in range(5)]
    assert [request["what"] for request in steps.begun] == list(range(5))
    assert [job.id for job in jobs.newest(9)] == [job.id for job in reversed(submitted)]


def test_progress_is_seen_while_a_job_runs(jobs: JobStore, start: Start) -> None:
    steps = Steps()
    job = start(steps=steps).submit("steps", {"what": 1})
    assert (job.status, job.progress) == ("queued", 0.0)
    assert steps.is_between.wait(DEADLINE_S)
    running = jobs.find(job.id)
    assert running is not None
    assert (running.status, running.progress, running.result) == ("running", 0.5, None)
    steps.proceed.set()
    done = ended(jobs, job)
    assert (done.status, done.progress, done.error) == ("succeeded", 1.0, None)
    assert done.updated >= done.created


@pytest.mark.parametrize("error", [AdapterNotFound("sql@3"), KeyError("a secret")])
def test_a_job_that_fails_says_why_as_a_request_would(
    jobs: JobStore, start: Start, error: Exception
) -> None:
    def fail(job: JobRecord, advance: Advance) -> dict[str, Any]:
        raise error

    steps = Steps()
    steps.proceed.set()
    worker = start(fail=fail, steps=steps)
    job, next_job = worker.submit("fail", {}), worker.submit("steps", {"what": 1})
    failed = ended(jobs, job)
    assert (failed.status, failed.result) == ("failed", None)
    assert failed.error == error_body(error)["error"]
    assert ended(jobs, next_job).status == "succeeded"


def test_running_job_is_cancelled_before_its_next_step(jobs: JobStore, start: Start) -> None:
    steps = Steps()
    worker = start(steps=steps)
    first, second = (worker.submit("steps", {"what": number}) for number in range(2))
    assert steps.is_between.wait(DEADLINE_S)
    assert jobs.cancel(first.id)
    assert not jobs.cancel(first.id)
    steps.proceed.set()
    assert ended(jobs, second).status == "succeeded"
    assert steps.finished == [second.request]
    cancelled = jobs.find(first.id)
    assert cancelled is not None
    assert (cancelled.status, cancelled.progress, cancelled.result) == ("cancelled", 0.5, None)


def test_waiting_job_that_is_cancelled_never_begins(jobs: JobStore, start: Start) -> None:
    steps = Steps()
    worker = start(steps=steps)
    first, second = (worker.submit("steps", {"what": number}) for number in range(2))
    assert steps.is_between.wait(DEADLINE_S)
    assert jobs.cancel(second.id)
    steps.proceed.set()
    assert ended(jobs, first).status == "succeeded"
    assert len(steps.begun) == 1


def test_job_of_a_server_that_stops_is_done_after_its_restart(jobs: JobStore, start: Start) -> None:
    steps = Steps()
    worker = start(steps=steps)
    job = worker.submit("steps", {"what": 1})
    assert steps.is_between.wait(DEADLINE_S)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    assert worker._is_stopping.wait(DEADLINE_S)
    steps.proceed.set()
    stopping.join()
    queued = jobs.find(job.id)
    assert queued is not None
    assert (queued.status, queued.progress) == ("queued", 0.0)
    start(steps=steps)
    assert ended(jobs, job).result == {"did": 1}
    assert len(steps.begun) == 2


def test_job_of_a_server_that_was_killed_is_done_after_its_restart(
    jobs: JobStore, start: Start
) -> None:
    job = jobs.add("steps", {"what": 1})
    claimed = jobs.claim(["steps"], "one:0")
    assert claimed is not None
    assert claimed.id == job.id
    assert jobs.claim(["steps"], "two") is None
    steps = Steps()
    steps.proceed.set()
    start("one", steps=steps)
    assert ended(jobs, job).status == "succeeded"


def test_job_that_the_database_did_not_let_end_is_done_again(
    jobs: JobStore, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a full disk: neither its end nor its return to the queue could be written."""
    down = OperationalError("UPDATE", {}, Exception("disk full"))
    write, failures = jobs._change, iter(range(2))

    def change(job_id: str, statuses: Collection[str], **values: Any) -> bool:
        if next(failures, None) is not None:
            raise down
        return write(job_id, statuses, **values)

    monkeypatch.setattr(worker_module, "POLL_S", 0.01)
    steps = Steps()
    steps.proceed.set()
    monkeypatch.setattr(jobs, "_change", change)
    job = start(steps=steps).submit("steps", {"what": 1})
    assert ended(jobs, job).result == {"did": 1}
    assert len(steps.begun) == 2


def test_what_another_replica_runs_is_left_to_it(jobs: JobStore, start: Start) -> None:
    theirs = jobs.add("steps", {"what": "theirs"})
    assert jobs.claim(["steps"], "another")
    steps = Steps()
    steps.proceed.set()
    mine = start("one", steps=steps).submit("steps", {"what": "mine"})
    assert ended(jobs, mine).status == "succeeded"
    found = jobs.find(theirs.id)
    assert found is not None
    assert found.status == "running"


def test_two_servers_of_one_folder_leave_each_other_their_jobs(
    jobs: JobStore, start: Start
) -> None:
    steps, others = Steps(), Steps()
    first = start(steps=steps)
    job = first.submit("steps", {"what": 1})
    assert steps.is_between.wait(DEADLINE_S)
    others.proceed.set()
    second = start(others=others)
    assert ended(jobs, second.submit("others", {"what": 2})).status == "succeeded"
    steps.proceed.set()
    assert ended(jobs, job).result == {"did": 1}
    assert len(steps.begun) == 1


def test_a_server_takes_over_what_another_of_its_folder_was_killed_in(
    jobs: JobStore, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "POLL_S", 0.01)
    dying = WorkerSlots(tmp_path / "slots", "one")
    job = jobs.add("steps", {"what": 1})
    assert jobs.claim(["steps"], dying.take())
    steps = Steps()
    steps.proceed.set()
    mine = start("one", steps=steps).submit("steps", {"what": 2})
    assert ended(jobs, mine).status == "succeeded"
    assert steps.begun == [{"what": 2}], "its owner lives"
    die(dying)
    assert ended(jobs, job).result == {"did": 1}


def die(slots: WorkerSlots) -> None:
    """Let go of the lock as the system does for a process that is gone: the file stays."""
    assert slots._held is not None
    context = slots._held._context
    assert context.lock_file_fd is not None
    os.close(context.lock_file_fd)
    context.lock_file_fd = None


def test_slots_are_used_again_and_never_twice(tmp_path: Path) -> None:
    first, second, third = (WorkerSlots(tmp_path, "here") for _ in range(3))
    assert (first.take(), second.take()) == ("here:0", "here:1")
    first.release()
    assert third.take() == "here:0"
    assert list(second.abandoned()) == []
    die(third)
    assert list(second.abandoned()) == ["here:0"]


def test_jobs_of_an_unknown_kind_wait_for_a_server_that_knows_it(
    jobs: JobStore, start: Start
) -> None:
    newer = jobs.add("newer", {})
    steps = Steps()
    steps.proceed.set()
    job = start(steps=steps).submit("steps", {"what": 1})
    assert ended(jobs, job).status == "succeeded"
    found = jobs.find(newer.id)
    assert found is not None
    assert found.status == "queued"


def test_the_thread_is_quiet_and_other_threads_are_not(jobs: JobStore, start: Start) -> None:
    before = torch.get_num_threads()

    def look(job: JobRecord, advance: Advance) -> dict[str, Any]:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return {"threads": torch.get_num_threads(), "nice": nice}

    result = ended(jobs, start(look=look).submit("look", {})).result
    assert result is not None
    assert result["threads"] == 1
    if sys.platform == "linux":
        assert result["nice"] == NICENESS
    assert torch.get_num_threads() == before
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < NICENESS
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [before]


def test_unknown_job_changes_nothing(jobs: JobStore) -> None:
    assert jobs.find("job-0") is None
    assert not jobs.cancel("job-0")
    assert not jobs.advance("job-0", 0.5)
    assert jobs.newest(5) == []


def test_a_cancelled_job_keeps_no_result(jobs: JobStore) -> None:
    job = jobs.add("steps", {})
    assert jobs.claim(["steps"], "one")
    assert jobs.cancel(job.id)
    assert not jobs.succeed(job.id, {"did": 1})
    assert not jobs.fail(job.id, {"message": "late"})
    assert not jobs.requeue(job.id)
    found = jobs.find(job.id)
    assert found is not None
    assert (found.status, found.result, found.error) == ("cancelled", None, None)

"""`kill -9` anywhere during an upload: what was acknowledged stays, nothing is half there."""

import subprocess
import sys
from pathlib import Path

import pytest
from store_factories import BASE, LIMITS, random_adapter

from adapters_store import files
from adapters_store.ingest import AdapterStore

# The process that is killed has the adapters' code in memory and forks once for each death, so
# that many deaths take seconds. A death comes at the n-th call of any function, Python's or
# C's, counted over two uploads: between any two of their steps.
DIE_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from adapters_store.ingest import AdapterStore
from store_factories import BASE, LIMITS

def upload_both(directory, acknowledge):
    store = AdapterStore.open(directory / "store", BASE, {}, LIMITS)
    for number in (0, 1):
        store.ingest(directory.parent / f"upload-{number}", f"adapter-{number}", {})
        acknowledge(number)

def run(directory, last_call):
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1
            if calls == last_call:
                os.kill(os.getpid(), signal.SIGKILL)
    directory.mkdir()
    log = os.open(directory / "acknowledged", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    sys.setprofile(count)
    upload_both(directory, lambda number: os.write(log, f"{number}\\n".encode()))
    sys.setprofile(None)
    (directory / "calls").write_text(str(calls))

def in_child(directory, last_call):
    child = os.fork()
    if child == 0:
        run(directory, last_call)
        os._exit(0)
    return os.waitpid(child, 0)[1]

root, deaths = Path(sys.argv[1]), int(sys.argv[2])
assert in_child(root / "whole", None) == 0
calls = int((root / "whole" / "calls").read_text())
for death in range(deaths):
    status = in_child(root / f"{death}", 1 + death * calls // deaths)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""
NUM_DEATHS = 24


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per death, with the store as the killed process left it."""
    root = tmp_path_factory.mktemp("killed")
    for number in (0, 1):
        files.write(random_adapter(number), root / f"upload-{number}")
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DIE_AT_EVERY_STEP, str(root), str(NUM_DEATHS)]
    subprocess.run(command, check=True, env=environment)
    return root


def _reopened(directory: Path) -> AdapterStore:
    return AdapterStore.open(directory / "store", BASE, {}, LIMITS)


def _listed(store: AdapterStore) -> list[str]:
    return [record.name for record in store.registry.list_page(10, None)[0]]


def test_deaths_come_before_between_and_after_the_acknowledgements(killed: Path) -> None:
    counts = {
        len((killed / f"{death}" / "acknowledged").read_text().split())
        for death in range(NUM_DEATHS)
    }
    assert {0, 1} <= counts


@pytest.mark.parametrize("death", range(NUM_DEATHS))
def test_killed_upload_loses_nothing_acknowledged_and_lists_nothing_half(
    killed: Path, death: int
) -> None:
    directory = killed / f"{death}"
    store = _reopened(directory)
    acknowledged = (directory / "acknowledged").read_text().split()
    listed = _listed(store)
    assert {f"adapter-{number}" for number in acknowledged} <= set(listed)
    for name in listed:
        record = store.resolve(name)
        assert record.version == 1
        assert store.load(record.digest).digest == random_adapter(int(name[-1])).digest
    assert not list((directory / "store" / "quarantine").iterdir())
    for number in (0, 1):
        store.ingest(killed / f"upload-{number}", f"adapter-{number}", {})
    assert _listed(store) == ["adapter-0", "adapter-1"]
    store.close()

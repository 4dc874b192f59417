"""What `intarsia serve` does around the building of the application."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import make_tiny_checkpoint

from server.cli import ALLOCATIONS, _making_what_stays


def test_what_a_start_makes_is_never_looked_through_again() -> None:
    usual = gc.get_threshold()
    try:
        with _making_what_stays():
            assert gc.get_threshold()[0] == ALLOCATIONS
            made = [[number] for number in range(1000)]
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() >= len(made)
    finally:
        gc.unfreeze()


NATIVE = """
import os, sys, threading, time
from server.app import create_app
from server.settings import Settings

def others():
    return len(os.listdir("/proc/self/task")) - threading.active_count()

before = others()
app = create_app(Settings(base_model=sys.argv[1], data_dir=sys.argv[2]))
patience = time.monotonic() + 20
while others() > before and time.monotonic() < patience:  # what ends takes its time
    time.sleep(0.01)
print(others() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads where Linux lists them")
def test_a_start_leaves_no_team_of_threads_behind(tmp_path: Path) -> None:
    """With more of OpenMP's threads than cores, the engine's would sleep between any two loops."""
    base = make_tiny_checkpoint(tmp_path / "base")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", NATIVE, str(base), str(tmp_path / "data")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "0"

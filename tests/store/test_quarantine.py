"""Quarantine: a directory lives as long as its owner, whatever becomes of the owner."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapters_store.quarantine import Quarantine

DIE_INSIDE = """
import os, signal, sys
from pathlib import Path
from adapters_store.quarantine import Quarantine
with Quarantine(Path(sys.argv[1])).directory() as directory:
    (directory / "upload").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_directory_is_gone_afterwards_with_all_that_is_in_it(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q")

    def fail() -> None:
        with quarantine.directory() as directory:
            (directory / "upload").write_bytes(b"x")
            (directory / "folder").mkdir()
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        fail()
    assert list(quarantine.root.iterdir()) == []


def test_sweep_spares_the_living_and_removes_the_dead(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", DIE_INSIDE, str(tmp_path)], env=environment)
    assert killed.returncode == -9
    [left] = tmp_path.iterdir()
    with Quarantine(tmp_path).directory() as alive:
        assert Quarantine(tmp_path).sweep() == 1
        assert list(tmp_path.iterdir()) == [alive]
    assert not left.exists()

"""A server is ready when nothing is left to compile, and what was compiled once is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def second_run() -> dict[str, Any]:
    """What the program tells that runs after another, in processes of their own."""
    paths = os.pathsep.join(map(str, (ROOT, HERE.parent)))
    run = [
        subprocess.run(
            [sys.executable, HERE / "warmed_run.py"],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ][-1]
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def test_second_start_compiles_nothing(second_run: dict[str, Any]) -> None:
    assert second_run["compiled"] == 0


def test_no_request_finds_a_loop_that_is_not_warmed_up(second_run: dict[str, Any]) -> None:
    assert second_run["missing"] == []

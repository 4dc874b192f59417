"""The benchmark of cold loads does what it times, on a small adapter."""

import json
import sys
from pathlib import Path

import pytest

from loadtests.micro import cold_load


def test_a_fabricated_file_is_whole_and_fits_its_base(tmp_path: Path) -> None:
    stored = cold_load.fabricate(tmp_path, layers=2, keep_ratio=1e-4)
    adapter = stored.check()
    assert adapter.digest == stored.digest
    assert len(adapter.deltas) == 2
    assert cold_load.fabricate(tmp_path, layers=2, keep_ratio=1e-4).digest == stored.digest


def test_every_way_is_timed_and_the_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["cold_load", "--layers", "1", "--keep-ratio", "1e-4", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", few)
    cold_load.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ms"].keys() == {"read", "verify", "check", "load, one", "load"}
    assert found["load_over_verify"] == found["ms"]["load"] / found["ms"]["verify"] > 0

"""The benchmark of many adapters runs, on a tiny base and with servers of this process."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import running_server
from tiny_models import make_tiny_checkpoint

from loadtests import registry_scale


@contextmanager
def _server_here(log: Path, *flags: str) -> Iterator[str]:
    """As `loadtests.servers.running_server`, without the seconds that a process takes to start."""
    given: dict[str, Any] = {
        flag.removeprefix("--").replace("-", "_"): value
        for flag, value in zip(flags[::2], flags[1::2], strict=True)
    }
    data = {"data_dir": Path(given.pop("data_dir"))}
    with running_server(Path(given.pop("base_model")), **data, **given) as server:
        yield server.url


def test_every_cost_is_measured_at_every_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_tiny_checkpoint(tmp_path / "tiny")
    monkeypatch.setattr(registry_scale, "running_server", _server_here)
    few = (
        "--starts",
        "1",
        "--pages",
        "2",
        "--first-tokens",
        "2",
        "--plot",
        str(tmp_path / "curve.svg"),
    )
    registry_scale.main(["--base-model", str(base), "--counts", "10", "4", *few])
    *shown, last = capsys.readouterr().out.splitlines()
    small, large = json.loads(last)["results"]
    assert (small["adapters"], large["adapters"]) == (4, 10)
    assert small.keys() == large.keys()
    for cost in ("upload_ms", "start_empty_s", "start_s", "first_token_cold_ms"):
        assert large[cost] > 0
    assert set(large["lists"]) == {"all", *registry_scale.LISTS}
    assert all(0 < found["p50"] <= found["p95"] for found in large["lists"].values())
    assert any("10 adapters" in line for line in shown)
    assert "<svg" in (tmp_path / "curve.svg").read_text()

"""A tiny server with three adapters, and rows to search and to test with."""

from collections.abc import Iterator

import pytest
from evaluation_runs import jsonl, rows_of
from intarsia_client import Client
from servers import RunningServer, running_server
from tiny_models import make_tiny_checkpoint

NAMES = ["one", "two", "three"]
ROWS = [{**row, "prompt": f"{row['prompt']} again"} for row in rows_of(8)]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    base = make_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny")
    with running_server(base) as started:
        for seed, name in enumerate(NAMES):
            started.publish(name, "element", seed)
        yield started


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Validation and test rows."""
    directory = tmp_path_factory.mktemp("rows")
    for name, rows in {"seen": ROWS[:4], "unseen": ROWS[4:]}.items():
        (directory / f"{name}.jsonl").write_bytes(jsonl(rows))
    return {name: str(directory / f"{name}.jsonl") for name in ("seen", "unseen")}

"""Servers that a session starts once, and the rule that no test may leave anything held."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import BASE_NAME, RunningServer, running_server
from tiny_adapters import KINDS
from tiny_models import make_tiny_checkpoint

KEY = "sesame-0123"
UPLOAD_LIMIT = 100_000  # bytes
BODY_LIMIT = 1_000_000  # bytes


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Only what a test says decides how a server or a client is set up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("INTARSIA_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-3 checkpoint with a byte-level tokenizer and a context of 128 tokens."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def running() -> list[RunningServer]:
    """Every server of the session that is up."""
    return []


@pytest.fixture(scope="session")
def server(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """A server without a key, with one adapter of each kind, named as `kind_names` says."""
    limits: dict[str, Any] = {"max_upload_bytes": UPLOAD_LIMIT, "max_request_bytes": BODY_LIMIT}
    with running_server(tiny_base, **limits) as started:
        for seed, (kind, name) in enumerate(kind_names().items()):
            started.publish(name, kind, seed)
        running.append(started)
        yield started


@pytest.fixture(scope="session")
def keyed_server(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """A server that wants KEY."""
    with running_server(tiny_base, api_key=KEY) as started:
        running.append(started)
        yield started


@pytest.fixture(scope="session")
def cramped_server(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """One sequence runs, one waits; the adapter `e` does not fit into memory."""
    limits: dict[str, Any] = {
        "max_num_seqs": 1,
        "max_queued_requests": 1,
        "max_adapter_bytes_device": 1000,
    }
    with running_server(tiny_base, **limits) as started:
        started.publish("e")
        running.append(started)
        yield started


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_stays_held(running: list[RunningServer]) -> Iterator[None]:
    """After each test: no request, no page, no pin, and books that agree."""
    yield
    for server in running:
        server.assert_idle()


Ask = Callable[..., Any]


@pytest.fixture
def complete(http: httpx.Client) -> Ask:
    """`complete(**fields)`: the answer of /v1/completions, greedy and of 8 tokens unless told."""

    def ask(**fields: Any) -> Any:
        body = {"model": BASE_NAME, "prompt": "setting", "max_tokens": 8, "temperature": 0}
        response = http.post("/v1/completions", json={**body, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    return ask


@pytest.fixture(scope="session")
def ascii_only(server: RunningServer) -> dict[str, float]:
    """A `logit_bias` that leaves printable ASCII, and no end of text."""
    texts = {i: server.services.codec.decode([i], False) for i in range(server.services.vocab_size)}
    plain = {
        i for i, text in texts.items() if len(text) == 1 and text.isascii() and text.isprintable()
    }
    return {str(i): -100.0 for i in texts if i not in plain}


def kind_names() -> dict[str, str]:
    """Name of the published adapter of each kind."""
    return {kind: f"kinds/{kind.replace(' ', '-')}" for kind in KINDS}

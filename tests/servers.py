"""Real servers over tiny bases: uvicorn in a thread on a loopback port, watched for what they hold.

`running_server` is the whole of it; a test asks `assert_idle` afterwards.
"""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tiny_adapters import make_adapter

from adapters_store import files
from adapters_store.adapter import BaseIdentity, SparseAdapter
from server.api.services import Services
from server.app import create_app
from server.engine.engine import Engine
from server.engine.runner import EntryResult, Runner
from server.engine.scheduled import ScheduledBatch
from server.kernels.stacked import Meanwhile
from server.model.checkpoint import open_checkpoint
from server.model.identity import base_identity
from server.settings import Settings

BASE_NAME = "tiny"
CACHE_BYTES = 2 << 20  # half of it may be lent to adapters
DEADLINE_S = 20.0  # for what takes milliseconds
TICK_S = 0.005


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at `url`, and what is behind it."""

    url: str
    settings: Settings
    services: Services
    base: BaseIdentity
    _uvicorn: "_Server"

    @property
    def engine(self) -> Engine:
        """The engine itself, which only its thread may touch while it is not idle."""
        return self.services.engine._engine

    def http(self, **options: Any) -> httpx.Client:
        """A plain client; its errors are not raised."""
        return httpx.Client(base_url=self.url, **{"timeout": DEADLINE_S, **options})

    def upload(self, adapter: SparseAdapter, name: str) -> dict[str, Any]:
        """Publish `adapter` over HTTP; the answer's JSON."""
        with self.http() as http:
            content = {"file": ("adapter.safetensors", file_bytes(adapter))}
            response = http.post("/v1/adapters", data={"name": name}, files=content)
        assert response.status_code in (200, 201), response.text
        shown: dict[str, Any] = response.json()
        return shown

    def publish(self, name: str, kind: str = "element", seed: int = 0) -> str:
        """Publish a random adapter of `kind`; its id."""
        return str(self.upload(make_adapter(self.base, kind, seed), name)["id"])

    def held(self) -> dict[str, int]:
        """Everything that requests hold: all zero once nobody waits for anything."""
        stats = self.services.engine.stats()
        return {
            "answers under way": len(self._uvicorn.server_state.tasks),
            "running": stats.num_running,
            "waiting": stats.num_waiting,
            "pages": stats.pages_held,
            "pins": self.services.memory.device.num_pins,
            "commands": self.services.engine._commands.qsize(),
        }

    def wait_for(self, **expected: int) -> None:
        """Return once the server holds `expected`; AssertionError if it never does."""
        deadline = time.monotonic() + DEADLINE_S
        while not expected.items() <= self.held().items():
            assert time.monotonic() < deadline, f"{self.held()}, not {expected}"
            threading.Event().wait(TICK_S)

    def assert_idle(self) -> None:
        """Every request lets go of everything, and the engine's books are right."""
        self.wait_for(**dict.fromkeys(self.held(), 0))
        self.engine.check_integrity()

    def stop(self) -> None:
        """Begin a graceful stop, as a signal does."""
        self._uvicorn.should_exit = True


@contextmanager
def running_server(
    base: Path, *, data_dir: Path | None = None, **settings: Any
) -> Iterator[RunningServer]:
    """A server of the checkpoint `base`, ready; stopped gracefully at the end."""
    with tempfile.TemporaryDirectory() as scratch, _listening_socket() as listener:
        fields = {"served_model_name": BASE_NAME, "device_cache_bytes": CACHE_BYTES, **settings}
        options = Settings(base_model=str(base), data_dir=data_dir or Path(scratch), **fields)
        app = create_app(options)
        server = _Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            assert server.is_up.wait(DEADLINE_S), "the server did not start"
            host, port = listener.getsockname()
            services = app.state.services
            identity = _identity(options)
            yield RunningServer(f"http://{host}:{port}", options, services, identity, server)
        finally:
            server.should_exit = True
            thread.join()


def file_bytes(adapter: SparseAdapter) -> bytes:
    """`adapter` as the bytes of its file."""
    with tempfile.NamedTemporaryFile() as file:
        files.write(adapter, Path(file.name))
        return Path(file.name).read_bytes()


class _Server(uvicorn.Server):
    """Says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


def _listening_socket() -> socket.socket:
    # The protocol is named because asyncio switches Nagle's delay off only where it reads "TCP".
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def _identity(settings: Settings) -> BaseIdentity:
    checkpoint = open_checkpoint(settings.base_model)
    return base_identity(BASE_NAME, checkpoint, settings.data_dir / "base-identity.json")


@contextmanager
def paused_engine(server: RunningServer) -> Iterator[threading.Event]:
    """No step computes anything until the event is set, or the block left."""
    runner, proceed = server.engine._runner, threading.Event()
    run = runner.run

    def wait_and_run(batch: ScheduledBatch, meanwhile: Meanwhile) -> list[EntryResult]:
        meanwhile()
        assert proceed.wait(DEADLINE_S), "the engine was never let go"
        return run(batch, lambda: None)

    with _replaced_run(runner, wait_and_run):
        try:
            yield proceed
        finally:
            proceed.set()


@contextmanager
def failing_engine(server: RunningServer, *, after_steps: int) -> Iterator[None]:
    """Every step after the next `after_steps` raises."""
    runner, steps = server.engine._runner, count()
    run = runner.run

    def run_or_fail(batch: ScheduledBatch, meanwhile: Meanwhile) -> list[EntryResult]:
        if next(steps) >= after_steps:
            raise RuntimeError("a step that fails")
        return run(batch, meanwhile)

    with _replaced_run(runner, run_or_fail):
        yield


@contextmanager
def _replaced_run(
    runner: Runner, run: Callable[[ScheduledBatch, Meanwhile], list[EntryResult]]
) -> Iterator[None]:
    original = runner.run
    runner.run = run  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        runner.run = original  # type: ignore[method-assign]

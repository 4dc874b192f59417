"""Servers as processes of their own, to be killed; and what `python -m server` is started with."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event

import httpx

from server.cli import serve

ROOT = Path(__file__).parents[2]
START_S = 60.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that runs `intarsia serve`; what it says is in the file `log`."""

    url: str
    log: Path
    process: BaseProcess

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            assert self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < deadline, "the server does not become ready"
            Event().wait(0.02)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def server_process(base: Path, data_dir: Path) -> Iterator[ServerProcess]:
    """A starting server; killed at the end if it still runs.

    Forked from a process that has the libraries loaded, since loading them takes seconds.
    """
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["server.app"])
    port, log = _free_port(), data_dir / "server.log"
    flags = [
        *("--base-model", str(base), "--data-dir", str(data_dir), "--port", str(port)),
        *("--served-model-name", "tiny", "--device-cache-bytes", str(1 << 20), "--device", "cpu"),
    ]
    process = forking.Process(target=_serve, args=(flags, log))
    process.start()
    try:
        yield ServerProcess(f"http://127.0.0.1:{port}", log, process)
    finally:
        process.kill()
        process.join()


def _serve(flags: list[str], log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    serve(flags, standalone_mode=False)


def server_command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "server", *flags]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

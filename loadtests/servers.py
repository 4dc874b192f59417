"""A server in a process group of its own, started for a benchmark and stopped after it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import httpx

START_LIMIT_S = 900
STOP_LIMIT_S = 60
READY = "/health/ready"
TICK_S = 0.05
OUTPUT_SHOWN = 4000  # characters of it, the last ones


class ServerDidNotStart(Exception):
    """The process of `command` ended, or was not ready in time; `output` is what it printed."""

    def __init__(self, command: Sequence[str], output: str) -> None:
        self.command, self.output = command, output
        super().__init__(
            f"`{' '.join(command)}` did not start; its output:\n{output[-OUTPUT_SHOWN:]}"
        )


@contextmanager
def running_server(log: Path, *flags: str) -> Iterator[str]:
    """The URL of `python -m server *flags` on a free loopback port, its output in `log`."""
    port = free_port()
    address = ["--host", "127.0.0.1", "--port", str(port)]
    with running([sys.executable, "-m", "server", *address, *flags], port, log) as url:
        yield url


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    ready: str = READY,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The URL of what `command` serves on `port`, once GET `ready` answers 200.

    `environment` is added to this process's own. At the end the whole process group is gone.
    """
    with running_process(command, port, log, ready, environment) as (url, _):
        yield url


@contextmanager
def running_process(
    command: Sequence[str],
    port: int,
    log: Path,
    ready: str = READY,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, int]]:
    """As `running`, with the process's id."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            _wait_until_ready(url + ready, process, log)
            yield url, process.pid
        finally:
            _stop(process)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    with httpx.Client() as http:
        while not _answers(http, url):
            if process.poll() is not None or time.monotonic() > deadline:
                assert isinstance(process.args, list)
                raise ServerDidNotStart(process.args, log.read_text(errors="replace"))
            time.sleep(TICK_S)


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the server to stop; what is left of its group after that, or after a minute, is ended."""
    process.terminate()
    try:
        process.wait(timeout=STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # the group outlives its leader
    except ProcessLookupError:
        return

"""`kill -9` while uploads run: what was acknowledged is there, and nothing is there by half."""

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api.processes import server_process
from servers import BASE_NAME, file_bytes
from tiny_adapters import make_adapter

from adapters_store.adapter import BaseIdentity
from server.model.checkpoint import open_checkpoint
from server.model.identity import base_identity

NUM_ROUNDS = 3
NUM_WRITERS = 3
MAX_DELAY_S = 0.05  # a few uploads take as long


class Uploads:
    """Writers that upload new adapters until the server is gone, and what it acknowledged."""

    def __init__(self, url: str, base: BaseIdentity, first_seed: int) -> None:
        self.acknowledged: dict[str, str] = {}  # id -> digest
        self._url, self._base, self._first_seed = url, base, first_seed
        self._has_enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(i,)) for i in range(NUM_WRITERS)
        ]

    def run_until(self, num_acknowledged: int) -> None:
        self._enough = num_acknowledged
        for thread in self._threads:
            thread.start()
        assert self._has_enough.wait(30), "the uploads do not get through"

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        with httpx.Client(base_url=self._url) as http:
            for seed in self._seeds(writer):
                file = {"file": file_bytes(make_adapter(self._base, seed=seed))}
                try:
                    answer = http.post("/v1/adapters", data={"name": f"w{writer}"}, files=file)
                except httpx.TransportError:
                    return
                shown = answer.json()
                self.acknowledged[shown["id"]] = shown["digest"]
                if len(self.acknowledged) >= self._enough:
                    self._has_enough.set()

    def _seeds(self, writer: int) -> Iterator[int]:
        return iter(range(self._first_seed + writer, 10**9, NUM_WRITERS))


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseIdentity:
    return base_identity(BASE_NAME, open_checkpoint(str(tiny_base)), None)


def test_a_killed_server_keeps_every_acknowledged_adapter_and_no_half_one(
    tiny_base: Path, base: BaseIdentity, tmp_path: Path
) -> None:
    source = random.Random(4)
    acknowledged: dict[str, str] = {}
    for number in range(NUM_ROUNDS):
        with server_process(tiny_base, tmp_path) as server:
            server.wait_until_ready()
            _assert_whole(server.url, acknowledged)
            uploads = Uploads(server.url, base, first_seed=1000 * number)
            uploads.run_until(source.randrange(2, 12))
            threading.Event().wait(source.uniform(0, MAX_DELAY_S))  # into the middle of another
            server.process.kill()
            uploads.join()
        acknowledged |= uploads.acknowledged
    with server_process(tiny_base, tmp_path) as server:
        server.wait_until_ready()
        _assert_whole(server.url, acknowledged)
        server.process.terminate()
        server.process.join()
    assert server.process.exitcode == -signal.SIGTERM
    said = server.log.read_text()
    assert server.url in said, "the welcome says where it serves"
    assert "Traceback" not in said, "a signal ends it quietly"


def _assert_whole(url: str, acknowledged: dict[str, str]) -> None:
    """Every acknowledged adapter is listed; every listed one can be downloaded and used."""
    with httpx.Client(base_url=url, timeout=30) as http:
        listed = {a["id"]: a for a in http.get("/v1/adapters?limit=1000").json()["data"]}
        assert acknowledged.items() <= {id_: a["digest"] for id_, a in listed.items()}.items()
        for id_, adapter in listed.items():
            file = http.get(f"/v1/adapters/{id_}/file")
            assert file.status_code == 200
            assert len(file.content) == adapter["bytes"]
            name, content = {"name": adapter["name"]}, {"file": file.content}
            again = http.post("/v1/adapters", data=name, files=content)
            assert (again.status_code, again.json()["id"]) == (200, id_)
            body = {"model": id_, "prompt": "x", "max_tokens": 1}
            answer = http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text

"""Where an adapter is, over HTTP: loading, ready, draining, gone; pins; what deleting frees."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import RunningServer, paused_engine, running_server
from tiny_adapters import make_adapter

ADAPTER_BYTES = 15_768  # of an element adapter of the tiny base, on the device
GREEDY = {"prompt": "a state", "max_tokens": 6, "temperature": 0}


def shown(http: httpx.Client, reference: str) -> Any:
    response = http.get(f"/v1/adapters/{reference}")
    assert response.status_code == 200, response.text
    return response.json()


def state_of(http: httpx.Client, reference: str) -> str:
    response = http.get(f"/v1/adapters/{reference}")
    return str(response.json()["state"]) if response.status_code == 200 else "gone"


def ask(http: httpx.Client, model: str) -> httpx.Response:
    return http.post("/v1/completions", json={**GREEDY, "model": model})


@contextmanager
def under_way(server: RunningServer, model: str) -> Iterator[Any]:
    """A request of `model` that runs until the yielded future's `let_go` is called."""
    with server.http() as http, ThreadPoolExecutor(1) as pool, paused_engine(server) as proceed:
        answer = pool.submit(ask, http, model)
        server.wait_for(running=1)
        yield proceed, answer


@pytest.fixture
def leaving(server: RunningServer) -> str:
    """The id of an adapter that the test deletes."""
    return server.publish("leaving", seed=90)


def test_an_adapter_is_stored_then_ready_with_its_bytes(server: RunningServer) -> None:
    adapter = server.publish("states", seed=91)
    with server.http() as http:
        before = shown(http, adapter)
        assert (before["state"], before["memory"]["bytes"]) == ("stored", {"host": 0, "device": 0})
        ask(http, adapter)
        after = shown(http, adapter)
        assert (after["state"], after["memory"]["requests"]) == ("ready", 0)
        assert min(after["memory"]["bytes"].values()) > 0
        http.delete("/v1/adapters/states")


def test_deleted_adapter_drains_and_is_gone_after_its_last_request(
    server: RunningServer, leaving: str
) -> None:
    device = server.services.memory.device
    with server.http() as http:
        alone = ask(http, leaving).json()["choices"][0]["text"]
        before = device.num_bytes
        with under_way(server, leaving) as (proceed, answer):
            gone = http.delete("/v1/adapters/leaving", params={"wait": 0})
            assert gone.status_code == 202
            assert gone.json()["state"] == "draining"
            assert gone.json()["bytes_freed"]["disk"] > 0
            assert gone.json()["bytes_freed"]["device"] == 0
            assert shown(http, leaving)["state"] == "draining"
            assert shown(http, leaving)["memory"]["requests"] == 1
            assert ask(http, leaving).status_code == 404
            proceed.set()
            assert answer.result().json()["choices"][0]["text"] == alone
        server.wait_for(pins=0)
        wait_until(lambda: state_of(http, leaving) == "gone")
        assert device.num_bytes < before


def test_deleting_waits_for_running_requests_and_tells_what_it_freed(
    server: RunningServer, leaving: str
) -> None:
    with server.http() as http, ThreadPoolExecutor(1) as pool:
        with under_way(server, leaving) as (proceed, answer):
            held = shown(http, leaving)["memory"]["bytes"]
            deleting = pool.submit(http.delete, "/v1/adapters/leaving", params={"wait": 20})
            wait_until(lambda: state_of(http, leaving) == "draining")
            proceed.set()
        gone = deleting.result()
        assert gone.status_code == 200
        assert gone.json()["state"] == "gone"
        assert gone.json()["bytes_freed"] == {
            **held,
            "disk": gone.json()["bytes_freed"]["disk"],
        }
        assert answer.result().status_code == 200


def test_content_that_another_name_has_stays(server: RunningServer, leaving: str) -> None:
    server.publish("staying", seed=90)
    with server.http() as http:
        ask(http, leaving)
        gone = http.delete("/v1/adapters/leaving").json()
        assert gone["bytes_freed"] == {"disk": 0, "host": 0, "device": 0}
        assert state_of(http, "staying") == "ready"
        http.delete("/v1/adapters/staying")


@pytest.mark.parametrize("wait", ["-1", "soon", "1e9", "nan"])
def test_a_wait_that_is_none_is_refused_by_name(http: httpx.Client, wait: str) -> None:
    response = http.delete("/v1/adapters/leaving", params={"wait": wait})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "wait"


def test_a_load_that_hangs_holds_up_no_running_request(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold, warm = server.publish("cold", seed=92), server.publish("warm", seed=93)
    go_on = threading.Event()
    blobs = type(server.services.store._blobs)
    load = blobs.load

    def hang(self: Any, digest: str, each: Any) -> Any:
        assert go_on.wait(20)
        return load(self, digest, each)

    with server.http() as http, ThreadPoolExecutor(1) as pool:
        ask(http, warm)
        monkeypatch.setattr(blobs, "load", hang)
        waiting = pool.submit(ask, http, cold)
        wait_until(lambda: state_of(http, cold) == "loading")
        assert [ask(http, warm).status_code for _ in range(3)] == [200] * 3
        assert not waiting.done()
        go_on.set()
        assert waiting.result().status_code == 200
        for name in ("cold", "warm"):
            http.delete(f"/v1/adapters/{name}")


# Pins


@pytest.fixture
def small(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """A server whose device holds two small adapters."""
    with running_server(tiny_base, max_adapter_bytes_device=2 * ADAPTER_BYTES) as started:
        running.append(started)
        yield started
        started.assert_idle()
        running.remove(started)


def pin(http: httpx.Client, name: str, *, pinned: bool = True) -> httpx.Response:
    return http.patch(f"/v1/adapters/{name}", json={"pinned": pinned})


def test_a_pinned_name_is_loaded_at_once_and_stays(small: RunningServer) -> None:
    names = [small.publish(f"n{seed}", seed=seed) for seed in range(4)]
    with small.http() as http:
        assert pin(http, "n0").status_code == 200
        assert state_of(http, "n0") == "ready"
        for name in names[1:] * 2:
            assert ask(http, name).status_code == 200
        assert state_of(http, "n0") == "ready"
        pin(http, "n0", pinned=False)
        for name in names[1:] * 2:
            ask(http, name)
        assert state_of(http, "n0") == "stored"


def test_a_pin_follows_the_latest_version_and_aliases(small: RunningServer) -> None:
    with small.http() as http:
        small.publish("n", seed=1)
        pin(http, "n")
        small.publish("n", seed=2)
        assert (state_of(http, "n@1"), state_of(http, "n@2")) == ("ready", "ready")
        ask(http, small.publish("other", seed=5))
        assert (state_of(http, "n@1"), state_of(http, "n@2")) == ("stored", "ready")
        http.patch("/v1/adapters/n", json={"aliases": {"prod": 1}})
        assert (state_of(http, "n@1"), state_of(http, "n@2")) == ("ready", "ready")


def test_a_pin_follows_a_merge_that_is_kept(server: RunningServer) -> None:
    for seed, name in enumerate(("merged", "other")):
        server.publish(name, seed=95 + seed)
    with server.http() as http:
        pin(http, "merged")
        body = {"name": "merged", "adapters": [{"id": "merged"}, {"id": "other"}]}
        assert http.post("/v1/merges?wait=true", json=body).json()["id"] == "merged@2"
        wait_until(lambda: state_of(http, "merged@2") == "ready")
        for name in ("merged", "other"):
            http.delete(f"/v1/adapters/{name}")


def test_deleting_a_pinned_adapter_frees_it(small: RunningServer) -> None:
    with small.http() as http:
        small.publish("n")
        pin(http, "n")
        gone = http.delete("/v1/adapters/n").json()
        assert gone["state"] == "gone"
        assert gone["bytes_freed"]["device"] > 0
        assert small.services.memory.device.num_bytes == 0


def test_a_pin_that_does_not_fit_is_refused_and_not_kept(small: RunningServer) -> None:
    small.publish("large", "dense")
    with small.http() as http:
        refused = pin(http, "large")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            503,
            "adapter_memory_full",
        )
        assert shown(http, "large")["pinned"] is False


@pytest.fixture
def tight(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """A server whose device holds one small adapter."""
    with running_server(tiny_base, max_adapter_bytes_device=ADAPTER_BYTES) as started:
        running.append(started)
        yield started
        started.assert_idle()
        running.remove(started)


def test_a_pin_follows_a_version_that_fits_only_in_the_place_of_the_last(
    tight: RunningServer,
) -> None:
    with tight.http() as http:
        tight.publish("n", seed=1)
        pin(http, "n")
        tight.publish("n", seed=2)
        assert (state_of(http, "n@1"), state_of(http, "n@2")) == ("stored", "ready")
        assert http.delete("/v1/adapters/n@1").json()["state"] == "gone"


def test_a_pin_that_no_longer_fits_lets_go_of_what_its_name_stood_for(
    tight: RunningServer,
) -> None:
    with tight.http() as http:
        tight.publish("n", seed=1)
        pin(http, "n")
        tight.publish("n", "dense")
        assert shown(http, "n@1")["memory"]["requests"] == 0
        assert http.delete("/v1/adapters/n@1").json()["state"] == "gone"


def test_a_pin_that_waits_for_room_holds_up_nobody(tight: RunningServer) -> None:
    running, waiting = tight.publish("running", seed=1), tight.publish("waiting", seed=2)
    with tight.http() as http, ThreadPoolExecutor(1) as pool:
        with under_way(tight, running) as (proceed, answer):
            pinning = pool.submit(pin, http, "waiting")
            wait_until(lambda: state_of(http, waiting) == "loading")
            other = tight.publish("other", seed=3)
            assert http.delete(f"/v1/adapters/{other}").json()["state"] == "gone"
            assert not pinning.done()
            proceed.set()
            assert answer.result().status_code == 200
        assert pinning.result().status_code == 200
        assert state_of(http, waiting) == "ready"


def test_a_deletion_is_whole_though_what_is_to_be_pinned_then_is_damaged(
    tight: RunningServer,
) -> None:
    first = tight.upload(make_adapter(tight.base, "element", 1), "n")["digest"]
    second = tight.publish("n", seed=2)
    with tight.http() as http:
        pin(http, "n")
        blobs: Any = tight.services.store._blobs
        blobs.path(first).write_bytes(b"damaged")
        gone = http.delete(f"/v1/adapters/{second}")
        assert gone.status_code == 200
        assert gone.json()["bytes_freed"]["device"] > 0
        assert tight.services.memory.device.num_bytes == 0


def test_content_that_comes_back_while_it_drains_is_pinned_and_no_longer_drains(
    tight: RunningServer,
) -> None:
    adapter = tight.publish("n", seed=1)
    with tight.http() as http, ThreadPoolExecutor(1) as pool:
        pin(http, "n")
        with under_way(tight, adapter) as (proceed, answer):
            deleting = pool.submit(http.delete, f"/v1/adapters/{adapter}")
            wait_until(lambda: state_of(http, adapter) == "draining")
            again = tight.publish("n", seed=1)
            proceed.set()
            assert answer.result().status_code == 200
        gone = deleting.result()
        assert gone.json()["state"] == "gone"
        assert gone.json()["bytes_freed"]["device"] == 0
        assert state_of(http, again) == "ready"
        assert state_of(http, adapter) == "gone"


def test_pinned_names_are_ready_after_a_restart(tiny_base: Path, tmp_path: Path) -> None:
    with running_server(tiny_base, data_dir=tmp_path) as first, first.http() as http:
        first.publish("n")
        pin(http, "n")
    with running_server(tiny_base, data_dir=tmp_path) as again, again.http() as http:
        assert state_of(http, "n") == "ready"


def test_metrics_tell_bytes_and_events_by_tier(server: RunningServer) -> None:
    adapter = server.publish("counted", seed=94)
    with server.http() as http:
        ask(http, adapter)
        page = http.get("/metrics").text
        http.delete("/v1/adapters/counted")
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    for tier in ("host", "device"):
        assert float(lines[f'intarsia_adapter_bytes{{tier="{tier}"}}']) > 0
        loads = f'intarsia_adapter_events_total{{event="loads",tier="{tier}"}}'
        assert float(lines[loads]) > 0
    assert "intarsia_adapter_waiting" in lines


def test_two_hundred_adapters_through_room_for_eight_leave_nothing(
    tiny_base: Path, running: list[RunningServer]
) -> None:
    """Bytes by tier are at their start again; `loadtests/adapter_churn.py` does 5,000 requests."""
    with running_server(tiny_base, max_adapter_bytes_device=8 * ADAPTER_BYTES) as server:
        running.append(server)
        names = [server.publish(f"n{seed}", seed=seed) for seed in range(200)]
        with server.http() as http, ThreadPoolExecutor(16) as pool:
            order = [names[index * 37 % 200] for index in range(400)]
            answers = list(pool.map(lambda name: ask(http, name), order))
            assert {answer.status_code for answer in answers} == {200}
            server.assert_idle()
            memory = server.services.memory
            assert 0 < memory.device.num_bytes <= 8 * ADAPTER_BYTES
            for name in names:
                http.delete(f"/v1/adapters/{name.partition('@')[0]}")
            assert (memory.device.num_bytes, memory.host.num_bytes) == (0, 0)
            assert server.engine.scheduler.blocks.num_withdrawn == 0
        running.remove(server)


def wait_until(done: Any) -> None:
    for _ in range(2000):
        if done():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came true")

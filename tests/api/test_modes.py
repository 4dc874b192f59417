"""Modes over HTTP: what a server of each setting takes, and adapters that leave while fused."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import BASE_NAME, RunningServer, paused_engine, running_server
from tiny_adapters import make_adapter

from server.adapters.journals import is_journal
from server.settings import SettingsConflict

Fields = dict[str, Any]
SUM = {"adapters": [{"id": "e", "weight": 0.5}, {"id": "f", "weight": -1.0}]}


@pytest.fixture(scope="module")
def auto(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """A server that fuses, with adapters that fuse (e, f, block) and one that does not."""
    with running_server(tiny_base, mode="auto") as started:
        for seed, (name, kind) in enumerate(
            {"e": "element", "f": "element", "block": "block 16x16", "low": "low_rank"}.items()
        ):
            started.publish(name, kind, seed)
        running.append(started)
        yield started


def ask(server: RunningServer, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": "setting", "max_tokens": 8, "temperature": 0, **fields}
    with server.http() as http:
        return http.post("/v1/completions", json=body)


def upload(server: RunningServer, name: str) -> str:
    """Publish an adapter that nobody else has; its digest."""
    shown = server.upload(make_adapter(server.base, "element", 10 + len(name)), name)
    return str(shown["digest"])


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    shown: str = response.json()["choices"][0]["text"]
    return shown


def metric(server: RunningServer, name: str) -> dict[str, float]:
    """The values of a family, by its one label."""
    with server.http() as http:
        page = http.get("/metrics").text
    found = re.findall(rf'^{name}{{\w+="([^"]*)"}} (\S+)$', page, re.MULTILINE)
    return {label: float(value) for label, value in found}


def metric_of(server: RunningServer, name: str) -> list[float]:
    """The values of a family without labels."""
    with server.http() as http:
        page = http.get("/metrics").text
    return [float(value) for value in re.findall(rf"^{name} (\S+)$", page, re.MULTILINE)]


@pytest.mark.parametrize("mode", ["fused", "auto"])
def test_a_server_that_never_fuses_says_so(server: RunningServer, mode: str) -> None:
    refused = ask(server, BASE_NAME, mode=mode)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "mode"
    assert "INTARSIA_MODE" in refused.json()["error"]["message"]
    assert ask(server, BASE_NAME, mode="batched").headers["x-intarsia-mode"] == "batched"
    assert metric(server, "intarsia_fused_info") == {}


@pytest.mark.parametrize("mode", ["merged", "FUSED", 1, [], True])
def test_what_is_no_mode_is_refused(auto: RunningServer, mode: object) -> None:
    refused = ask(auto, BASE_NAME, mode=mode)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "mode"


@pytest.mark.parametrize("model", ["e", "block"])
def test_every_mode_gives_the_same_text_and_says_which_it_was(
    auto: RunningServer, model: str
) -> None:
    answers = {mode: ask(auto, model, mode=mode) for mode in ("batched", "fused", "auto")}
    assert {answer.headers["x-intarsia-mode"] for answer in answers.values()} == set(answers)
    assert len({text(answer) for answer in answers.values()}) == 1
    assert ask(auto, model).headers["x-intarsia-mode"] == "auto"
    assert text(answers["fused"]) != text(ask(auto, BASE_NAME))


def test_the_base_is_batched_in_any_mode(auto: RunningServer) -> None:
    nothing = {"adapters": [{"id": "e", "weight": 0.0}], "merge": {"method": "linear"}}
    assert ask(auto, BASE_NAME, mode="fused").headers["x-intarsia-mode"] == "batched"
    assert ask(auto, BASE_NAME, mode="fused", **nothing).headers["x-intarsia-mode"] == "batched"


def test_a_sum_is_fused_as_one_composition(auto: RunningServer) -> None:
    fields: Fields = {**SUM, "merge": {"method": "linear"}}
    assert text(ask(auto, BASE_NAME, mode="fused", **fields)) == text(
        ask(auto, BASE_NAME, mode="batched", **fields)
    )


def test_what_cannot_be_fused_is_refused_in_fused_and_batched_in_auto(auto: RunningServer) -> None:
    refused = ask(auto, "low", mode="fused")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "mode"
    assert "entry by entry" in refused.json()["error"]["message"]
    text(ask(auto, "low", mode="auto"))
    routed = {"adapters": [{"id": "e"}, {"id": "f"}], "merge": {"method": "arrow"}}
    assert "routed" in ask(auto, BASE_NAME, mode="fused", **routed).json()["error"]["message"]
    auto.assert_idle()


def test_two_fused_compositions_at_once_take_turns(auto: RunningServer) -> None:
    alone = {model: text(ask(auto, model, mode="fused", max_tokens=60)) for model in ("e", "f")}
    before = metric(auto, "intarsia_fused_switches_total").get("request", 0.0)
    found: dict[str, str] = {}

    def run(model: str) -> None:
        found[model] = text(ask(auto, model, mode="fused", max_tokens=60))

    threads = [threading.Thread(target=run, args=(model,)) for model in alone]
    with paused_engine(auto) as proceed:
        for thread in threads:
            thread.start()
        auto.wait_for(pins=2)
        proceed.set()
    for thread in threads:
        thread.join()
    assert found == alone
    assert metric(auto, "intarsia_fused_switches_total")["request"] > before + 1


def test_a_deleted_adapter_leaves_the_weights(auto: RunningServer) -> None:
    digest = upload(auto, "gone")
    text(ask(auto, "gone", mode="fused"))
    assert digest in next(iter(metric(auto, "intarsia_fused_info")))
    with auto.http() as http:
        deleted = http.delete("/v1/adapters/gone", params={"wait": 10})
    assert deleted.status_code == 200, deleted.text
    assert deleted.json()["bytes_freed"]["device"] > 0
    assert metric(auto, "intarsia_fused_info") == {"base": 1.0}
    assert metric(auto, "intarsia_fused_switches_total")["released"] >= 1


def test_a_request_that_runs_while_its_adapter_is_deleted_ends_as_it_began(
    auto: RunningServer,
) -> None:
    upload(auto, "going")
    whole = text(ask(auto, "going", mode="fused", max_tokens=40))
    answers: list[httpx.Response] = []
    running = threading.Thread(
        target=lambda: answers.append(ask(auto, "going", mode="fused", max_tokens=40))
    )
    with paused_engine(auto):
        running.start()
        auto.wait_for(pins=1)
        with auto.http() as http:
            assert http.delete("/v1/adapters/going", params={"wait": 0}).status_code == 202
    running.join()
    assert text(answers[0]) == whole
    auto.wait_for(pins=0)
    while auto.services.memory.device.only_in_weights():
        threading.Event().wait(0.005)
    assert metric(auto, "intarsia_fused_info") == {"base": 1.0}


def test_an_idle_fused_adapter_makes_room_for_another(
    tiny_base: Path, running: list[RunningServer]
) -> None:
    with running_server(tiny_base, mode="fused") as roomy:
        roomy.publish("e", "element", 0)
        text(ask(roomy, "e"))
        size = roomy.services.memory.device.num_bytes
    limits: dict[str, Any] = {"max_adapter_bytes_device": size * 5 // 4}  # journals are in it
    with running_server(tiny_base, mode="fused", **limits) as cramped:
        for seed, name in enumerate(("e", "f")):
            cramped.publish(name, "element", seed)
        for name in ("e", "f", "e"):
            assert ask(cramped, name).headers["x-intarsia-mode"] == "fused"
        cramped.assert_idle()


def test_a_journal_is_part_of_the_devices_adapter_bytes(auto: RunningServer) -> None:
    text(ask(auto, BASE_NAME, mode="fused", adapters=[{"id": "e"}]))
    [journal] = metric_of(auto, "intarsia_fused_journal_bytes")
    assert journal > 0
    device = auto.services.memory.device
    assert metric(auto, "intarsia_adapter_bytes")["device"] == device.num_bytes
    fused = [entry for name in device.only_in_weights() if (entry := device.find(name))]
    assert sum(own.num_bytes for own in fused if is_journal(own.digest)) == journal


def test_what_has_no_room_for_its_journal_is_refused_fused_and_batched_in_auto(
    tiny_base: Path,
) -> None:
    with running_server(tiny_base, mode="auto") as roomy:
        roomy.publish("e", "element", 0)
        text(ask(roomy, "e", mode="batched"))
        size = roomy.services.memory.device.num_bytes
    limits: dict[str, Any] = {"max_adapter_bytes_device": size + 1}
    with running_server(tiny_base, mode="auto", **limits) as cramped:
        cramped.publish("e", "element", 0)
        refused = ask(cramped, "e", mode="fused")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            503,
            "adapter_memory_full",
        )
        text(ask(cramped, "e", mode="auto", max_tokens=100, ignore_eos=True))
        assert metric(cramped, "intarsia_fused_switches_total").keys() == {"no_room"}
        assert metric(cramped, "intarsia_fused_info") == {"base": 1.0}
        cramped.assert_idle()


def test_a_quantized_base_is_never_fused_with(tiny_base: Path) -> None:
    with (
        pytest.raises(SettingsConflict) as caught,
        running_server(tiny_base, mode="auto", quantization="int8"),
    ):
        pass
    assert caught.value.key == "mode"

"""Adapters of an evaluation stand behind those of live requests, in memory too."""

from pathlib import Path

from evaluation_runs import all_rows, begin, ended, get, rows_of, until
from memories import SIZE, Desk
from servers import RunningServer, running_server


def adapter_bytes(server: RunningServer, name: str) -> int:
    """Bytes of a published adapter on the device."""
    with server.http() as http:
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        assert http.post("/v1/completions", json=body).status_code == 200
    record = server.services.store.resolve(name)
    return server.services.memory.status(record.digest).device_bytes


def test_a_live_request_gets_the_room_of_a_running_evaluation(
    tiny_base: Path, server: RunningServer
) -> None:
    """There is room for one adapter, and the evaluation has it."""
    for seed, name in enumerate(("crowd/one", "crowd/two"), start=40):
        server.publish(name, seed=seed)
    room = max(adapter_bytes(server, name) for name in ("crowd/one", "crowd/two"))
    with running_server(tiny_base, max_adapter_bytes_device=room) as small, small.http() as http:
        for seed, name in enumerate(("crowd/one", "crowd/two"), start=40):
            small.publish(name, seed=seed)
        asked = {"dataset": {"rows": rows_of(60)}, "generation": {"max_tokens": 40}}
        evaluation = begin(http, subjects=["crowd/one", "base"], **asked)
        until(lambda: small.held()["pins"] > 0)
        body = {"model": "crowd/two", "prompt": "a", "max_tokens": 4}
        assert http.post("/v1/completions", json=body).status_code == 200
        assert get(http, evaluation)["status"] == "running"
        assert ended(http, evaluation)["status"] == "succeeded"
        rows = all_rows(http, evaluation)
        small.assert_idle()
    with server.http() as http:
        alone = begin(http, subjects=["crowd/one", "base"], **asked)
        assert ended(http, alone)["status"] == "succeeded"
        assert all_rows(http, alone) == rows


def test_background_claims_stand_behind_all_others() -> None:
    desk = Desk(device_bytes=SIZE)
    held = desk.lease("a0")
    late = desk.ask("b0", is_background=True)
    desk.pool.run()
    assert not desk.memory.is_crowded
    live = desk.ask("c0")
    desk.pool.run()
    assert desk.memory.is_crowded
    held.release()
    desk.pool.run()
    live.result(0).release()
    desk.pool.run()
    late.result(0).release()
    assert not desk.memory.is_crowded
    desk.memory.check_integrity()

"""The gate: an alias moves when the bar is met, and where nobody moved it meanwhile."""

import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from evaluation_runs import begin, ended, evaluate, rows_of
from servers import RunningServer, paused_engine
from tiny_adapters import make_adapter

LOSS = {"metric": "loss", "min_rows": 1}
EASY = {**LOSS, "min_delta_over": {"subject": "base", "delta": -1000.0}}
HARD = {**LOSS, "min_delta_over": {"subject": "base", "delta": 1000.0}}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


@pytest.fixture
def gated(client: httpx.Client, server: RunningServer, request: pytest.FixtureRequest) -> str:
    """A name of its own with three versions; its alias `prod` stands at the first."""
    name = f"gated-{zlib.crc32(request.node.name.encode())}"
    for seed in range(3):
        server.upload(make_adapter(server.base, seed=seed + 500), name)
    client.patch(f"/v1/adapters/{name}", json={"aliases": {"prod": 1}})
    return name


def fields(name: str, condition: dict[str, Any], **promote: Any) -> dict[str, Any]:
    return {
        "subjects": ["base", f"{name}@2"],
        "metrics": ["loss"],
        "promote": {"alias": f"{name}@prod", "if": condition, **promote},
    }


def standing(client: httpx.Client, name: str, alias: str = "prod") -> Any:
    answer = client.get(f"/v1/adapters/{name}@{alias}")
    return answer.json().get("version")


def test_an_alias_moves_when_the_bar_is_met(client: httpx.Client, gated: str) -> None:
    found = evaluate(client, **fields(gated, EASY))
    decision = found["promotion"]
    assert (decision["promoted"], decision["passed"]) == (True, True)
    assert (decision["from"], decision["version"]) == ({"1": 1.0}, 2)
    conditions = {each["condition"]: each for each in decision["evidence"]["conditions"]}
    delta = next(each for each in found["comparisons"] if each["task"] is None)
    assert conditions["min_delta_over"]["found"] == pytest.approx(
        -delta["metrics"]["loss"]["delta"]
    )
    assert standing(client, gated) == 2


def test_an_alias_stays_when_the_bar_is_missed(client: httpx.Client, gated: str) -> None:
    decision = evaluate(client, **fields(gated, HARD))["promotion"]
    assert (decision["promoted"], decision["passed"]) == (False, False)
    assert any("missed" in reason for reason in decision["reasons"])
    assert standing(client, gated) == 1


def test_too_few_rows_promote_nobody(client: httpx.Client, gated: str) -> None:
    decision = evaluate(client, **fields(gated, {**EASY, "min_rows": 4}))["promotion"]
    assert not decision["promoted"]
    assert standing(client, gated) == 1


def test_an_alias_that_is_new_is_made(client: httpx.Client, gated: str) -> None:
    asked = fields(gated, EASY)
    asked["promote"]["alias"] = f"{gated}@fresh"
    decision = evaluate(client, **asked)["promotion"]
    assert (decision["promoted"], decision["from"]) == (True, None)
    assert standing(client, gated, "fresh") == 2


@pytest.mark.parametrize("change", [{"prod": 3}, {"prod": None}, {"prod": {"1": 1.0, "2": 3.0}}])
def test_an_alias_that_somebody_moved_is_left_alone(
    client: httpx.Client, server: RunningServer, gated: str, change: dict[str, Any]
) -> None:
    with paused_engine(server):
        evaluation = begin(client, **fields(gated, EASY))
        moved = client.patch(f"/v1/adapters/{gated}", json={"aliases": change})
        assert moved.status_code == 200
    decision = ended(client, evaluation)["promotion"]
    assert (decision["promoted"], decision["passed"]) == (False, True)
    assert "changed meanwhile" in decision["reasons"][-1]
    shown = client.get(f"/v1/adapters/{gated}").json()["aliases"]
    assert shown == moved.json()["aliases"]


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no bar": ({"if": LOSS}, 400, "promote.if.min"),
    "no such metric": ({"if": {**EASY, "metric": "bleu"}}, 400, "promote.if.metric"),
    "a metric not measured": ({"if": {**EASY, "metric": "f1"}}, 400, "promote.if.metric"),
    "no such task": ({"if": {**EASY, "task": "other"}}, 400, "promote.if.task"),
    "not against a subject": (
        {"if": {**LOSS, "min_delta_over": {"subject": "nobody"}}},
        400,
        "promote.if.min_delta_over.subject",
    ),
    "confidence of one": ({"if": {**EASY, "confidence": 1.0}}, 400, "promote.if.confidence"),
    "no alias": ({"alias": "{name}"}, 400, "promote.alias"),
    "a version": ({"alias": "{name}@3"}, 400, "promote.alias"),
    "of a name that is no subject": ({"alias": "kinds/element@prod"}, 400, "promote.subject"),
    "the base": ({"subject": "base"}, 400, "promote.subject"),
    "a composition": ({"subject": "mix"}, 400, "promote.subject"),
    "two that fit": ({"subject": None}, 400, "promote.subject"),
}


@pytest.mark.parametrize(("change", "status", "param"), BAD.values(), ids=BAD)
def test_a_gate_that_cannot_decide_is_refused(
    client: httpx.Client, gated: str, change: dict[str, Any], status: int, param: str
) -> None:
    mix = {"adapters": [{"id": f"{gated}@1", "weight": 0.5}], "name": "mix"}
    asked = fields(gated, EASY, subject=f"{gated}@2")
    asked["promote"] |= change
    asked["promote"]["alias"] = asked["promote"]["alias"].format(name=gated)
    body = {**asked, "dataset": {"rows": rows_of(3)}}
    body["subjects"] = ["base", f"{gated}@2", f"{gated}@3", mix]
    answer = client.post("/v1/evaluations", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param

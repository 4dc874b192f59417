"""What the client sends to have a merge diagnosed, and what it reads of the answer."""

import json
from typing import Any

import httpx
import pytest
from intarsia_client import AdapterWeight, Diagnosis, NotFound

ROWS = {
    "coverage": 0.2,
    "mean_overlap": 1.5,
    "sign_conflict": None,
    "members": [{"nnz": 3}, {"nnz": 4}],
    "pairs": [{"members": [0, 1], "shared": 2}],
}
FOUND = {"level": "warn", "measure": "lift", "value": 3.5, "bound": 2.0, "members": [0, 1]}
ANSWER = {
    "object": "merge.diagnosis",
    "verdict": "warn",
    "findings": [FOUND],
    "members": [{"id": "a@1", "digest": "sha256:a", "weight": 1.0}, {"id": "b@2"}],
    "bytes": 128,
    "pooled": ROWS,
    "parts": [ROWS | {"name": "q_proj"}],
    "layers": [ROWS | {"layer": "layers.0.qkv", "parts": []}],
    "newer": 1,
}
MEMBERS = [AdapterWeight("a", 0.5), AdapterWeight("b@2")]


@pytest.mark.parametrize(
    "bounds", [{}, {"warn_if": {"lift": 2.0}, "refuse_if": {"coverage": 0.9}, "layers": False}]
)
def test_diagnose_sends_members_and_bounds_and_nothing_else(
    drive: Any, bounds: dict[str, Any]
) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=ANSWER)

    drive(handler, "diagnose", MEMBERS, **bounds)
    adapters = [{"id": "a", "weight": 0.5}, {"id": "b@2", "weight": 1.0}]
    assert sent == [("POST", "/v1/merges/diagnose", bounds | {"adapters": adapters})]


def test_diagnosis_is_read_with_its_layers_and_newer_fields(drive: Any) -> None:
    told = drive(lambda _: httpx.Response(200, json=ANSWER), "diagnose", MEMBERS)
    assert isinstance(told, Diagnosis)
    assert (told.verdict, told.members, told.bytes) == ("warn", ("a@1", "b@2"), 128)
    [found] = told.findings
    assert (found.level, found.measure, found.value, found.members) == ("warn", "lift", 3.5, (0, 1))
    assert [rows.name for rows in (told.pooled, *told.parts, *told.layers)] == [
        "",
        "q_proj",
        "layers.0.qkv",
    ]
    assert (told.pooled.coverage, told.pooled.sign_conflict) == (0.2, None)
    assert told.layers[0].pairs[0]["shared"] == 2
    assert told.raw["newer"] == 1


def test_answer_without_layers_has_none(drive: Any) -> None:
    content = {name: value for name, value in ANSWER.items() if name != "layers"}
    told = drive(lambda _: httpx.Response(200, json=content), "diagnose", MEMBERS, layers=False)
    assert told.layers == ()


def test_unknown_adapter_is_an_error(drive: Any) -> None:
    error = {"message": "no", "type": "not_found_error", "param": "adapters.1.id", "code": "x"}
    with pytest.raises(NotFound):
        drive(lambda _: httpx.Response(404, json={"error": error}), "diagnose", MEMBERS)

"""`POST /v1/merges/diagnose`: members by name, bounds with a verdict, every fault by its field."""

from typing import Any

import httpx
import pytest
from api.conftest import kind_names
from servers import RunningServer
from tiny_adapters import QKV, make_adapter

from adapters_store.merging.diagnostics.thresholds import MEASURES
from server.api import diagnose as route

ELEMENT, BLOCK = "kinds/element", "kinds/block-16x16"


def diagnose(http: httpx.Client, *names: str, **fields: Any) -> Any:
    body = {"adapters": [{"id": name} for name in names], **fields}
    response = http.post("/v1/merges/diagnose", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_every_kind_is_diagnosed_with_every_other(http: httpx.Client) -> None:
    names = list(kind_names().values())
    told = diagnose(http, *names)
    assert [member["id"] for member in told["members"]] == [f"{name}@1" for name in names]
    assert len(told["pooled"]["pairs"]) == len(names) * (len(names) - 1) // 2
    assert told["pooled"]["coverage"] == 1.0  # a dense member names every place
    assert [part["name"] for part in told["parts"]] == ["q_proj", "k_proj", "v_proj"]
    qkv = next(layer for layer in told["layers"] if layer["layer"] == QKV)
    assert sum(part["covered"] for part in qkv["parts"]) == qkv["covered"]
    assert qkv["predicted"]["form"] == "dense"
    assert QKV in told["unmeasured_biases"]


def test_same_adapter_twice_is_two_members_that_agree(http: httpx.Client) -> None:
    told = diagnose(http, ELEMENT, f"{ELEMENT}@1")
    [pair] = told["pooled"]["pairs"]
    assert (pair["jaccard"], pair["sign_conflict"]) == (1.0, 0.0)
    assert [row["kept_mass"] for row in told["pooled"]["members"]] == [0.5, 0.5]


def test_weights_turn_agreement_into_conflict(http: httpx.Client) -> None:
    members = [{"id": ELEMENT, "weight": 1.0}, {"id": ELEMENT, "weight": -1.0}]
    told = diagnose(http, adapters=members, warn_if={"sign_conflict": 0.3})
    assert told["pooled"]["sign_conflict"] == 1.0
    assert told["verdict"] == "warn"
    assert [found["measure"] for found in told["findings"]] == ["sign_conflict"]


def test_refusal_is_an_answer(http: httpx.Client) -> None:
    told = diagnose(http, ELEMENT, BLOCK, refuse_if={"coverage": 0.01}, warn_if={"bytes": 0})
    assert told["verdict"] == "refuse"
    assert [found["level"] for found in told["findings"]] == ["refuse", "warn"]


def test_layers_may_be_left_out(http: httpx.Client) -> None:
    whole = diagnose(http, ELEMENT, BLOCK)
    assert diagnose(http, ELEMENT, BLOCK, layers=False) == {
        name: value for name, value in whole.items() if name != "layers"
    }


MEMBER = {"id": ELEMENT}
FAULTS = [
    pytest.param({}, 400, "adapters", id="no-members"),
    pytest.param({"adapters": []}, 400, "adapters", id="zero-members"),
    pytest.param({"adapters": [MEMBER] * 65}, 400, "adapters", id="too-many-members"),
    pytest.param({"adapters": [{"id": "nobody"}]}, 404, "adapters.0.id", id="unknown"),
    pytest.param({"adapters": [MEMBER, {"id": "~"}]}, 404, "adapters.1.id", id="no-reference"),
    pytest.param(
        {"adapters": [{"id": ELEMENT, "weight": 1e7}]}, 400, "adapters.0.weight", id="weight"
    ),
    pytest.param(
        {"adapters": [MEMBER], "warn_if": {"luck": 1}}, 400, "warn_if.luck", id="no-measure"
    ),
    pytest.param(
        {"adapters": [MEMBER], "refuse_if": {"lift": "2"}}, 400, "refuse_if.lift", id="no-number"
    ),
    pytest.param({"adapters": [MEMBER], "merge": {}}, 400, "merge", id="unknown-field"),
]


@pytest.mark.parametrize(("body", "status", "param"), FAULTS)
def test_fault_is_told_with_its_field(
    http: httpx.Client, body: dict[str, Any], status: int, param: str
) -> None:
    response = http.post("/v1/merges/diagnose", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"adapters": [{"id": "kinds/element", "weight": %s}]}', "adapters.0.weight"),
        ('{"adapters": [{"id": "kinds/element"}], "warn_if": {"lift": %s}}', "warn_if.lift"),
    ],
)
def test_number_that_is_none_is_refused(
    http: httpx.Client, body: str, param: str, value: str
) -> None:
    headers = {"content-type": "application/json"}
    response = http.post("/v1/merges/diagnose", content=body % value, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_other_content_than_json_is_refused(http: httpx.Client) -> None:
    assert http.post("/v1/merges/diagnose", content=b"adapters=a").status_code == 415


def test_unknown_measure_is_answered_with_those_there_are(http: httpx.Client) -> None:
    body = {"adapters": [MEMBER], "warn_if": {"luck": 1}}
    said = http.post("/v1/merges/diagnose", json=body).json()["error"]["message"]
    assert all(name in said for name in MEASURES)


def test_work_without_bound_is_refused_before_it_begins(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    [pair] = diagnose(http, ELEMENT, ELEMENT)["pooled"]["pairs"]
    monkeypatch.setattr(route, "MAX_MEETINGS", pair["shared"])
    body = {"adapters": [MEMBER, MEMBER]}
    assert http.post("/v1/merges/diagnose", json=body).status_code == 200
    response = http.post("/v1/merges/diagnose", json={"adapters": [MEMBER, MEMBER, MEMBER]})
    assert response.status_code == 413
    assert response.json()["error"]["param"] == "adapters"


def test_adapter_stored_for_another_base_is_a_conflict(
    server: RunningServer, http: httpx.Client
) -> None:
    """What the store holds may be older than the base that is served now."""
    adapter = make_adapter(server.base, "element", 99)
    name = server.upload(adapter, "strays")["id"]
    layers = server.services.store.base.layers
    own = layers[QKV]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layers, QKV, type(own)(own.shape, "sha256:other"))
        response = http.post("/v1/merges/diagnose", json={"adapters": [{"id": name}]})
    assert response.status_code == 409
    assert QKV in response.json()["error"]["message"]

"""What a merge may be told, and how it is refused."""

from typing import Any

import pytest

from adapters_store.errors import InvalidMerge
from adapters_store.merging.parameters import described
from adapters_store.merging.rules import PLANS
from adapters_store.merging.table import (
    DEFAULT_METHOD,
    MAX_MEMBERS,
    METHODS,
    check_members,
    resolve_parameters,
)

METRICS = {"values": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("method", "given", "field"),
    [
        ("", {}, "method"),
        ("svd", {}, "method"),
        ("linear", {"density": 0.5}, "density"),
        ("ties", {"density": 0}, "density"),
        ("ties", {"density": 1.0000001}, "density"),
        ("ties", {"density": -0.1}, "density"),
        ("ties", {"density": float("nan")}, "density"),
        ("ties", {"density": "0.5"}, "density"),
        ("ties", {"density": True}, "density"),
        ("ties", {"density": None}, "density"),
        ("ties", {"density_of": "all"}, "density_of"),
        ("ties", {"sign": ["sum"]}, "sign"),
        ("ties", {"lambda": float("inf")}, "lambda"),
        ("ties", {"lambda": 10**400}, "lambda"),
        ("della", {"density": 0.9}, "epsilon"),
        ("della", {"density": 0.1}, "epsilon"),
        ("della", {"density": 0.5, "epsilon": 0.5}, "epsilon"),
        ("slerp", {"t": 1.5}, "t"),
        ("sce", {"select_topk": 0}, "select_topk"),
        ("metrics_weighted", {}, "values"),
        ("metrics_weighted", {"values": []}, "values"),
        ("metrics_weighted", {"values": "12"}, "values"),
        ("metrics_weighted", {"values": [1.0, 0.0]}, "values"),
        ("metrics_weighted", {"values": [1.0, float("nan")]}, "values"),
        ("metrics_weighted", {**METRICS, "penalty": -1}, "penalty"),
    ],
)
def test_wrong_parameter_is_refused_by_name(method: str, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMerge) as refused:
        resolve_parameters(method, given)
    assert refused.value.field == field
    assert field in str(refused.value)


def test_density_1_needs_no_room_for_epsilon() -> None:
    assert resolve_parameters("della", {"density": 1})["density"] == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_allowed(method: str) -> None:
    given = METRICS if method == "metrics_weighted" else {}
    resolved = resolve_parameters(method, given)
    assert resolve_parameters(method, resolved) == resolved
    assert list(resolved) == [parameter.name for parameter in METHODS[method].parameters]


@pytest.mark.parametrize(
    ("method", "count", "allowed"),
    [
        ("linear", 0, False),
        ("linear", 1, True),
        ("linear", MAX_MEMBERS, True),
        ("linear", MAX_MEMBERS + 1, False),
        ("slerp", 1, False),
        ("slerp", 2, True),
        ("slerp", 3, False),
        ("metrics_weighted", 2, True),
        ("metrics_weighted", 3, False),
    ],
)
def test_number_of_members_is_checked(method: str, count: int, allowed: bool) -> None:
    parameters = resolve_parameters(method, METRICS if method == "metrics_weighted" else {})
    if allowed:
        check_members(method, parameters, count)
        return
    with pytest.raises(InvalidMerge):
        check_members(method, parameters, count)


def test_every_row_has_its_arithmetic() -> None:
    assert set(PLANS) == set(METHODS)
    assert DEFAULT_METHOD in METHODS


def test_a_parameter_is_listed_with_its_range() -> None:
    density = METHODS["ties"].parameters[0]
    assert described(density) == {
        "name": "density",
        "kind": "number",
        "default": 0.2,
        "range": "above 0 and at most 1",
        "meaning": "share of a member's entries that is kept, the largest",
    }

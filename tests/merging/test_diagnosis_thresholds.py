"""Bounds warn or refuse by the pooled numbers, of members and pairs by the worst."""

import pytest
import torch

from adapters_store.adapter import ElementDelta, SparseAdapter
from adapters_store.merging.diagnose import Diagnosis, diagnose
from adapters_store.merging.diagnostics.report import report
from adapters_store.merging.diagnostics.thresholds import MEASURES, findings, verdict
from adapters_store.merging.reader import MemoryReader


def adapter(places: list[int], values: list[float]) -> MemoryReader:
    delta = ElementDelta(
        layer="x",
        shape=(4, 8),
        indices=torch.tensor(places, dtype=torch.int32),
        values=torch.tensor(values),
    )
    return MemoryReader(SparseAdapter("base", {"x": "sha256:0"}, (delta,)))


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    """Members 0 and 1 are opposites at half of their places; member 2 is apart."""
    members = [
        adapter([0, 1], [1.0, 1.0]),
        adapter([0, 1], [1.0, -1.0]),
        adapter([8, 9, 10, 11], [1.0] * 4),
    ]
    return diagnose(members, [1.0, 1.0, 1.0])


BROKEN = [
    pytest.param("coverage", 6 / 32, 0.18, 6 / 32, (), id="coverage"),
    pytest.param("mean_overlap", 8 / 6, 1.3, 8 / 6, (), id="mean_overlap"),
    pytest.param("sign_conflict", 0.5, 0.49, 0.5, (), id="sign_conflict"),
    pytest.param("bytes", 48, 47, 48, (), id="bytes"),
    pytest.param("jaccard", 1, 0.9, 1, (0, 1), id="worst-pair-is-not-a-member-with-itself"),
    pytest.param("overlap", 1, 0.9, 1, (0, 1), id="overlap"),
    pytest.param("lift", 16, 15, 16, (0, 1), id="lift"),
    pytest.param("cosine", 0, 0.1, 0, (0, 1), id="cosine-below"),
    pytest.param("outside_energy", 0.8, 0.79, 0.8, (0,), id="worst-member"),
    pytest.param("distortion", 0.5**0.5, 0.7, 0.5**0.5, (0,), id="distortion"),
    pytest.param("kept_mass", 0.5, 0.51, 0.5, (0,), id="kept-mass-below"),
]


def test_every_measure_is_tried() -> None:
    assert {param.values[0] for param in BROKEN} == set(MEASURES)


@pytest.mark.parametrize(("name", "at", "bound", "value", "members"), BROKEN)
def test_number_beyond_its_bound_is_found_with_who_is_worst(
    diagnosis: Diagnosis,
    name: str,
    at: float,
    bound: float,
    value: float,
    members: tuple[int, ...],
) -> None:
    slack = 1e-9 * (1 if bound < at else -1)
    assert findings(diagnosis, {name: at + slack}, {}) == ()
    [found] = findings(diagnosis, {name: bound}, {})
    assert (found.level, found.measure, found.bound) == ("warn", name, bound)
    assert found.value == pytest.approx(value)
    assert found.members == members


def test_number_at_its_bound_is_within_it(diagnosis: Diagnosis) -> None:
    assert findings(diagnosis, {"bytes": 48}, {"sign_conflict": 0.5}) == ()


def test_refusal_outweighs_warnings(diagnosis: Diagnosis) -> None:
    found = findings(diagnosis, {"coverage": 0, "bytes": 0}, {"jaccard": 0.5})
    assert [finding.level for finding in found] == ["refuse", "warn", "warn"]
    assert [verdict(found), verdict(found[1:]), verdict(())] == ["refuse", "warn", "ok"]


def test_number_that_is_not_defined_breaks_no_bound() -> None:
    alone = diagnose([adapter([0], [0.0])], [1.0])
    bounds = dict.fromkeys(MEASURES.keys() - {"coverage", "mean_overlap", "bytes"}, 0.0)
    assert findings(alone, bounds, bounds) == ()


def test_report_names_the_finding_and_its_members(diagnosis: Diagnosis) -> None:
    found = findings(diagnosis, {}, {"sign_conflict": 0.3, "jaccard": 0.9})
    said = report(diagnosis, [{}, {}, {}], found)
    whole = {"level": "refuse", "measure": "sign_conflict", "value": 0.5, "bound": 0.3}
    pair = {"level": "refuse", "measure": "jaccard", "value": 1.0, "bound": 0.9}
    assert said["verdict"] == "refuse"
    assert said["findings"] == [{**whole, "members": []}, {**pair, "members": [0, 1]}]

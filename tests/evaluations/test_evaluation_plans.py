"""Plans: JSON and back without a loss, and the same order of work for ever."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from adapters_store.evaluation.gate import DeltaOver, Gate
from server.adapters.composition import Composition
from server.evaluation.plan import Plan, Promotion, TaskRows
from server.evaluation.subjects import Subject

MakePlan = Callable[..., Plan]
DIGESTS = [f"sha256:{number:064x}" for number in range(3)]


def again(plan: Plan) -> Plan:
    """As a restarted server reads it from the database."""
    return Plan.from_json(json.loads(json.dumps(plan.to_json())))


@pytest.mark.parametrize(
    "composition",
    [
        Composition(),
        Composition.linear([(DIGESTS[0], 0.1), (DIGESTS[1], -2.0)]),
        Composition.arrow([(digest, 1.0) for digest in DIGESTS], 0.3, 2),
    ],
)
def test_a_plan_survives_the_database(make_plan: MakePlan, composition: Composition) -> None:
    sources = ({"adapter": DIGESTS[0]}, {"recipe": "{}", "through": None})
    asked = {"adapters": [{"id": "a", "weight": 0.1}]}
    subject = Subject("mix", asked, None, None, composition, sources, "linear; as=pairs")
    gate = Gate("sql@prod", "loss", "small", 2.0, DeltaOver("base", 0.5), 0.9)
    promotion = Promotion("sql", "prod", 3, "sql@3", {1: 0.9, 2: 0.1}, gate)
    plan = make_plan(subjects=[subject], promotion=promotion)
    assert again(plan) == plan
    assert again(plan).subjects[0].composition.digest == composition.digest


def test_every_subject_is_asked_every_row_once_in_positions_without_gaps(
    make_plan: MakePlan,
) -> None:
    plan = make_plan()
    places = list(plan.places())
    assert [place.position for place in places] == list(range(plan.num_rows))
    assert plan.num_rows == 2 * (3 + 4)
    assert set(Counter((p.subject, p.task, p.row) for p in places).values()) == {1}
    assert [place.subject for place in places[:4]] == [0, 1, 0, 1]
    assert list(again(plan).places()) == places


def test_draws_differ_by_row_and_are_alike_for_subjects(make_plan: MakePlan) -> None:
    plan = make_plan()
    seeds = {(p.task, p.row, plan.sampling(p).seed) for p in plan.places()}
    assert len(seeds) == len({seed for *_, seed in seeds}) == 7
    assert plan.sampling(next(plan.places())).stop == ("\n",)


@pytest.mark.parametrize("limit", [1, 49, 50, 51, None])
def test_a_sample_is_of_the_size_that_was_asked(limit: int | None) -> None:
    rows = TaskRows("n", "data-1", "sha256:a", 50, limit, 3).rows
    assert len(set(rows)) == min(limit or 50, 50)
    assert list(rows) == sorted(rows)
    assert all(0 <= row < 50 for row in rows)

"""Decisions and aliases: both change or neither, once, on either database."""

from collections.abc import Callable
from typing import Any

import pytest
from drafts import draft

from adapters_store.evaluation.gate import Decision, Gate
from adapters_store.evaluation.rows import EvalRow
from adapters_store.registry import Change, Registry
from adapters_store.registry.evaluation_errors import (
    BaseChanged,
    DataSetInUse,
    DataSetNotFound,
    EvaluationNotFound,
)
from server.api.evaluation_json import evaluation_json
from server.evaluation.datasets import DataSets
from server.evaluation.job import EvaluationJobs
from server.evaluation.plan import Place, Plan, Promotion, TaskRows
from server.evaluation.store import EvaluationStore, Outcome
from server.jobs.store import JobStore
from server.metrics import EvaluationCounts

MakePlan = Callable[..., Plan]
GATE = Gate("sql@prod", "loss", min=1.0)
PASSED, MISSED = (Decision(passed, ("why",), {"seed": 0}) for passed in (True, False))


@pytest.fixture
def begun(registry: Registry, make_plan: MakePlan) -> tuple[JobStore, EvaluationStore, str]:
    """A running evaluation, beside three versions of which `prod` is the first."""
    for number in range(3):
        registry.publish(draft(number=number))
    registry.change("sql", Change({"prod": {1: 1.0}}))
    jobs, store = JobStore(registry.database), EvaluationStore(registry.database)
    dataset, _ = DataSets(registry.database).add([EvalRow("a", ("b",))])
    plan = make_plan(tasks=[TaskRows("t", dataset.id, dataset.digest, 1, None, 0)])
    job = jobs.add("evaluation", plan.to_json(), lambda session, i: store.begin(session, i, plan))
    assert jobs.claim(["evaluation"], "one")
    return jobs, store, job.id


def promotion(version: int = 2, stood: dict[int, float] | None = None) -> Promotion:
    return Promotion("sql", "prod", version, f"sql@{version}", stood or {1: 1.0}, GATE)


Begun = tuple[JobStore, EvaluationStore, str]


def test_a_decision_is_made_once(registry: Registry, begun: Begun) -> None:
    _, store, job = begun
    first = store.settle(job, promotion(), PASSED)
    assert (first["promoted"], first["found"]) == (True, {"1": 1.0})
    assert registry.resolve("sql@prod").version == 2
    # As after a crash between the move and the job's end: the alias is not where it stood.
    assert store.settle(job, promotion(), PASSED) == first
    assert store.progress(job).decision == first
    registry.change("sql", Change({"prod": {3: 1.0}}))
    assert store.settle(job, promotion(), PASSED) == first
    assert registry.resolve("sql@prod").version == 3


@pytest.mark.parametrize(
    ("change", "decision", "reason"),
    [
        ({}, MISSED, "why"),
        ({"prod": {3: 1.0}}, PASSED, "changed meanwhile"),
        ({"prod": {1: 0.5, 3: 0.5}}, PASSED, "changed meanwhile"),
        ({"prod": None}, PASSED, "changed meanwhile"),
    ],
)
def test_an_alias_stays_unless_all_is_as_it_was(
    registry: Registry, begun: Begun, change: dict[str, Any], decision: Decision, reason: str
) -> None:
    _, store, job = begun
    registry.change("sql", Change(change))
    before = registry.state("sql").aliases
    settled = store.settle(job, promotion(), decision)
    assert not settled["promoted"]
    assert reason in settled["reasons"][-1]
    assert registry.state("sql").aliases == before


def test_a_version_that_is_gone_is_not_promoted(registry: Registry, begun: Begun) -> None:
    _, store, job = begun
    registry.delete("sql@2")
    settled = store.settle(job, promotion(), PASSED)
    assert not settled["promoted"]
    assert "sql@2" in settled["reasons"][-1]
    assert registry.resolve("sql@prod").version == 1


def test_a_cancelled_evaluation_promotes_nobody(registry: Registry, begun: Begun) -> None:
    jobs, store, job = begun
    assert jobs.cancel(job)
    assert not store.settle(job, promotion(), PASSED)["promoted"]
    assert registry.resolve("sql@prod").version == 1


def test_a_decision_is_told_whatever_became_of_the_job(begun: Begun) -> None:
    jobs, store, job = begun
    settled = store.settle(job, promotion(), PASSED)
    assert jobs.cancel(job)
    record = jobs.find(job)
    assert record is not None
    shown = evaluation_json(record, store.progress(job))
    assert (shown["status"], shown["results"], shown["promotion"]) == ("cancelled", None, settled)


def test_rows_that_were_dropped_do_not_come_back(begun: Begun) -> None:
    jobs, store, job = begun
    store.add(job, [Outcome(Place(0, 0, 0, 0), {}, {})], 0.5)
    jobs.cancel(job)
    store.forget(job)
    store.add(job, [Outcome(Place(1, 0, 0, 1), {}, {})], 0.5)  # was in flight
    assert store.page(job, 5, after=-1) == []
    assert store.progress(job).num_done == 1


def test_outcomes_are_kept_in_order_with_any_text(begun: Begun) -> None:
    _, store, job = begun
    outcomes = [
        Outcome(Place(position, 0, 0, position), {"output": "nul \0 é"}, {"loss": (1.5, 2.0)})
        for position in (2, 0, 1)
    ]
    store.add(job, outcomes[:2], 0.5)
    store.add(job, outcomes[2:], 0.25)
    progress = store.progress(job)
    assert (progress.num_done, progress.seconds) == (3, 0.75)
    assert progress.rows_per_second == 4.0
    assert store.positions(job) == {0, 1, 2}
    assert [place.position for place, _ in store.scores(job)] == [0, 1, 2]
    assert [each.place.position for each in store.page(job, 2, after=0)] == [1, 2]
    assert store.page(job, 1, after=-1)[0].evidence == {"output": "nul \0 é"}


def test_a_job_without_its_data_set_is_not_queued(registry: Registry, make_plan: MakePlan) -> None:
    jobs, store = JobStore(registry.database), EvaluationStore(registry.database)
    plan = make_plan()
    with pytest.raises(DataSetNotFound):
        jobs.add("evaluation", plan.to_json(), lambda s, job: store.begin(s, job, plan))
    assert jobs.newest(5) == []
    with pytest.raises(EvaluationNotFound):
        store.progress("job-0")


def test_an_evaluation_of_another_base_is_not_gone_on_with(
    registry: Registry, begun: Begun
) -> None:
    jobs, store, job = begun
    found = jobs.find(job)
    assert found is not None

    def never(*_: object) -> Any:
        pytest.fail("it was begun")

    base = {"name": "other", "digest": "sha256:d"}
    datasets, counts = DataSets(registry.database), EvaluationCounts()
    handler = EvaluationJobs(store, datasets, never, never, base, never, counts)
    with pytest.raises(BaseChanged, match="tiny; here is other"):
        handler(found, never)


def test_a_data_set_in_use_stays(registry: Registry, begun: Begun) -> None:
    jobs, _, job = begun
    datasets = DataSets(registry.database)
    [kept] = datasets.newest(5)
    with pytest.raises(DataSetInUse, match=job):
        datasets.delete(kept.id)
    jobs.cancel(job)
    assert datasets.delete(kept.id) == kept
    assert datasets.newest(5) == []


def test_rows_come_back_as_they_went_in(registry: Registry) -> None:
    datasets = DataSets(registry.database)
    rows = [
        EvalRow(f"prompt {i} \0 é\n", ("a", "b") if i % 2 else ("c",), ("a", "b", "c"))
        for i in range(600)
    ]
    record, is_new = datasets.add(rows, "name")
    assert is_new
    assert datasets.add(rows, "other") == (record, False)
    assert datasets.rows(record.id) == rows
    for wanted in ({599, 0, 256}, {255}, {256}, {300, 301}, set()):
        assert datasets.rows(record.id, wanted) == [rows[i] for i in sorted(wanted)]

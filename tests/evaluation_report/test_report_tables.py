"""Which colour a heat map gives to which number."""

from typing import Any

import pytest
from evaluation_samples import sample
from intarsia_client.report.measures import measure_of
from intarsia_client.report.results import Results
from intarsia_client.report.tables import HeatMap, Tables


def heat_maps(metric: str, means: dict[str, float]) -> tuple[HeatMap | None, HeatMap | None]:
    """Of one task with these means; differences are from the first subject."""
    evaluation = sample([*means], ["dates"], [metric], reference=next(iter(means)))
    first = next(iter(means.values()))
    for each in (*evaluation["results"], *evaluation["comparisons"]):
        told: dict[str, Any] = each["metrics"][metric]
        told["mean"] = means[each["subject"]]
        told["delta"] = told["mean"] - first
    tables = Tables(Results.from_json(evaluation), metric, measure_of(metric))
    return tables.heat(), tables.delta_heat()


def steps(heat: HeatMap | None) -> dict[str, int]:
    assert heat
    return {subject: cell.step for subject, (cell,) in heat.rows if cell}


@pytest.mark.parametrize(
    ("metric", "means", "scores", "deltas"),
    [
        ("f1", (50.0, 50.0, 50.0), (10, 10, 10), (10, 10)),
        ("f1", (50.0, 70.0, 40.0), (7, 20, 0), (20, 5)),
        ("loss", (5.0, 7.0, 4.0), (13, 0, 20), (0, 15)),
        ("perplexity", (10.0, 1000.0, 1.0), (13, 0, 20), (0, 15)),
    ],
)
def test_steps_go_from_worst_to_best_and_to_either_side_of_the_reference(
    metric: str,
    means: tuple[float, ...],
    scores: tuple[int, ...],
    deltas: tuple[int, ...],
) -> None:
    heat, delta_heat = heat_maps(metric, dict(zip("abc", means, strict=True)))
    assert tuple(steps(heat).values()) == scores
    assert tuple(steps(delta_heat).values()) == deltas


@pytest.mark.parametrize(
    ("metric", "ends", "delta_ends"),
    [
        ("f1", ("worst 10.0", "30.0 best"), ("worse \u221220.0", "+20.0 better")),
        ("loss", ("worst 30.000", "10.000 best"), ("worse +20.000", "\u221220.000 better")),
        ("perplexity", ("worst 30.00", "10.00 best"), ("worse \u00d7 3.00", "÷ 3.00 better")),
    ],
)
def test_legends_name_the_ends(
    metric: str, ends: tuple[str, str], delta_ends: tuple[str, str]
) -> None:
    heat, delta_heat = heat_maps(metric, {"a": 10.0, "b": 30.0})
    assert heat
    assert delta_heat
    assert (heat.ends, delta_heat.ends) == (ends, delta_ends)


def test_one_subject_has_nothing_to_differ_from() -> None:
    assert heat_maps("f1", {"a": 10.0})[1] is None

"""Every point of a space is a mix that the merge table takes; what cannot be is refused by name."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store.merging.parameters import Number
from adapters_store.merging.recipe import Recipe
from adapters_store.merging.table import METHODS
from merge_search.dimensions import Range
from merge_search.errors import SearchRefused
from merge_search.mix import Mix
from merge_search.parameters import USUAL
from merge_search.space import Coordinates, MethodSpace, Space
from merge_search.weights import Weights

NAMES = ("sql@3", "chat@1", "law@2")
FREE, SUMMED = Weights(), Weights(0, 0, 1.0)
SIGNED = Weights(-1.5, 1.5)


def space_of(method: str, weights: Weights = FREE, **parameters: Any) -> MethodSpace:
    names = NAMES[:2] if method == "slerp" else NAMES
    given = {"values": [0.5, 0.25, 1.0]} if method == "metrics_weighted" else {}
    return Space.build(names, [method], weights, {**given, **parameters}, 7).methods[method]


def recipe(mix: Mix) -> Recipe:
    """As the server builds it; raises InvalidMerge for what the table refuses."""
    digests = {name: f"sha256:{index:064x}" for index, name in enumerate(NAMES)}
    fields = dict(mix.merge)
    method, seed = fields.pop("method"), fields.pop("seed", None)
    return Recipe.build(method, fields, [(digests[n], w) for n, w in mix.members], seed)


@st.composite
def points(draw: st.DrawFn) -> tuple[MethodSpace, tuple[float, ...]]:
    method = draw(st.sampled_from(sorted(METHODS)))
    asked: dict[str, Any] = {}
    for each in METHODS[method].parameters:
        if each.kind == "choice" and draw(st.booleans()):
            asked[each.name] = list(each.choices)  # type: ignore[union-attr]
    if method == "della" and draw(st.booleans()):
        low = draw(st.floats(0, 0.2))
        asked |= {"epsilon": Range(low, 0.9), "density": Range(low + 0.01, 1 - low - 0.01)}
    space = space_of(method, draw(st.sampled_from([FREE, SUMMED, SIGNED])), **asked)
    places = [
        draw(st.floats(0, 1) if axis.choices is None else st.integers(0, axis.choices - 1))
        for axis in space.axes
    ]
    return space, tuple(places)


@given(points())
@settings(max_examples=200)
def test_every_point_is_a_mix_that_the_table_takes(
    point: tuple[MethodSpace, tuple[float, ...]],
) -> None:
    space, places = point
    mix = space.mix(places)
    assert recipe(mix).method == space.method
    weights = [weight for _, weight in mix.members]
    if space.weights.total is None:
        assert all(space.weights.low <= each <= space.weights.high for each in weights)
    else:
        assert sum(weights) == pytest.approx(1, abs=2e-4)
        assert min(weights) >= 0
    assert Mix.from_request(mix.request()).key == mix.key


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_starts_uniform_with_its_defaults(method: str) -> None:
    space = space_of(method)
    mix = space.mix(space.start().places)
    assert {weight for _, weight in mix.members} == {1.0}
    found = recipe(mix).parameters
    for each in METHODS[method].parameters:
        if each.name != "values":
            assert found[each.name] == pytest.approx(each.default, abs=0.01), each.name


def test_weights_that_add_up_start_equal() -> None:
    space = space_of("linear", SUMMED)
    assert [w for _, w in space.mix(space.start().places).members] == [0.3333] * 3


def test_every_number_of_the_table_has_a_usual_range_inside_its_bounds() -> None:
    for method in METHODS.values():
        for each in method.parameters:
            if isinstance(each, Number):
                low, high = USUAL[each.name]
                assert each.parse(low) <= each.default <= each.parse(high)


def test_the_scale_is_searched_only_where_weights_do_not_scale() -> None:
    assert "lambda" not in [axis.name for axis in space_of("task_arithmetic").axes]
    assert "lambda" in [axis.name for axis in space_of("task_arithmetic", SUMMED).axes]
    asked = space_of("task_arithmetic", FREE, **{"lambda": Range(0.5, 2)})
    assert "lambda" in [axis.name for axis in asked.axes]


@pytest.mark.parametrize(
    ("weights", "parameters", "mixes"),
    [
        (Weights(1, 1), {"density": 0.2, "lambda": 1}, 1),
        (Weights(1, 1), {}, 9),
        (FREE, {"density": 0.2}, 27),
        (FREE, {"density": [0.1, 0.2], "sign": ["sum", "count"]}, 108),
        (SUMMED, {"density": 0.2, "lambda": 1}, 6),
    ],
)
def test_a_grid_has_every_combination_once(
    weights: Weights, parameters: dict[str, Any], mixes: int
) -> None:
    space = space_of("ties", weights, **parameters)
    found = {space.mix(each.places).key for each in space.grid(3)}
    assert len(found) == len(list(space.grid(3))) == mixes


def test_a_grid_reaches_each_candidate_alone() -> None:
    space = space_of("linear", SUMMED)
    found = [[w for _, w in space.mix(each.places).members] for each in space.grid(2)]
    assert sorted(found) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_a_range_on_a_log_scale_halves_by_factors() -> None:
    space = space_of("magnitude_prune", Weights(1, 1), density=Range(0.01, 1, log=True))
    assert [axis.name for axis in space.axes] == ["density"]
    assert space.mix([0.5]).merge["density"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"candidates": []}, "candidates"),
        ({"candidates": ["a", "a"]}, "candidates"),
        ({"methods": []}, "methods"),
        ({"methods": ["ties", "ties"]}, "methods"),
        ({"methods": ["soup"]}, "methods"),
        ({"methods": ["slerp"]}, "methods.slerp"),
        ({"methods": ["metrics_weighted"]}, "parameters.values"),
        (
            {"methods": ["metrics_weighted"], "parameters": {"values": [1.0]}},
            "methods.metrics_weighted",
        ),
        ({"weights": Weights(2, 1)}, "weights"),
        ({"weights": Weights(0, float("inf"))}, "weights"),
        ({"weights": Weights(0.5, 0.5, 1.0)}, "weights.sum"),
        ({"parameters": {"rank": 3.0}}, "parameters.rank"),
        ({"parameters": {"epsilon": 0.1}}, "parameters.epsilon"),
        ({"parameters": {"density": Range(0, 1)}}, "parameters.density"),
        ({"parameters": {"density": []}}, "parameters.density"),
        ({"parameters": {"density": [0.1, 0.1]}}, "parameters.density"),
        ({"parameters": {"sign": Range(0, 1)}}, "parameters.sign"),
        ({"parameters": {"sign": "most"}}, "parameters.sign"),
        ({"methods": ["della"], "parameters": {"epsilon": 0.15}}, "parameters.epsilon"),
        (
            {"methods": ["della"], "parameters": {"epsilon": [0.1, 0.2], "density": [0.2, 1]}},
            "parameters.epsilon",
        ),
        ({"methods": ["della"], "parameters": {"epsilon": Range(0.1, 0.2)}}, "parameters.epsilon"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(changed: dict[str, Any], field: str) -> None:
    asked: dict[str, Any] = {
        "candidates": NAMES,
        "methods": ["ties"],
        "weights": FREE,
        "parameters": {},
    }
    with pytest.raises(SearchRefused) as refused:
        Space.build(**{**asked, **changed})
    assert refused.value.field == field


def test_coordinates_come_back_from_json() -> None:
    at = Coordinates("ties", (0.25, 1))
    assert Coordinates.from_json({"method": "ties", "places": [0.25, 1]}) == at


def test_a_mix_is_told_on_one_line() -> None:
    assert Mix(()).call == "base"
    assert Mix((("sql@3", 1.0),)).call == "sql@3"
    both = Mix((("sql@3", 1.0), ("chat@1", 0.25)), {"method": "ties", "density": 0.1})
    assert both.call == "ties(sql@3, 0.25*chat@1, density=0.1)"

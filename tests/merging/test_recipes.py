"""Recipes: one text and one digest for everything that means the same; all else is refused."""

import json
import math
from typing import Any

import pytest
from drafts import digest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.canonical import fp32_hex, round_to_fp32
from adapters_store.errors import InvalidMerge
from adapters_store.merging.parameters import Choice, MemberNumbers, Parameter
from adapters_store.merging.recipe import MAX_MEMBERS, Member, Recipe
from adapters_store.merging.table import METHODS, Method

A, B, C = digest(1), digest(2), digest(3)
WEIGHTS = st.floats(-1e6, 1e6, width=32)
SORTING = [row.name for row in METHODS.values() if row.sorts]
FOLDING = [row.name for row in METHODS.values() if row.folds]
KEEPING = [row.name for row in METHODS.values() if not row.folds and row.max_members > 2]


def _values(parameter: Parameter, members: int) -> st.SearchStrategy[Any]:
    if isinstance(parameter, Choice):
        return st.sampled_from(parameter.choices)
    if isinstance(parameter, MemberNumbers):
        return st.lists(st.floats(0.1, 9), min_size=members, max_size=members)
    low, high = max(parameter.low, -9.0), min(parameter.high, 9.0)
    return st.floats(low, high, exclude_min=parameter.above_low)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """What `Recipe.build` takes, of any method."""
    row: Method = draw(st.sampled_from(list(METHODS.values())))
    count = draw(st.integers(row.min_members, min(row.max_members, 5)))
    pairs = st.tuples(st.sampled_from([A, B, C]), WEIGHTS)
    members = draw(st.lists(pairs, min_size=count, max_size=count))
    needed = [p for p in row.parameters if p.default is None]
    # DELLA's density and epsilon depend on each other, so those that may be left out are.
    optional = [p for p in row.parameters if p.default is not None and p.name != "epsilon"]
    chosen = [
        *needed,
        *draw(st.lists(st.sampled_from(optional), unique=True) if optional else st.just([])),
    ]
    parameters = {p.name: draw(_values(p, count)) for p in chosen}
    if any(p.name == "epsilon" for p in row.parameters):
        parameters.pop("density", None)
    seed = draw(st.none() | st.integers(0, 2**64 - 1)) if row.takes_seed else None
    return {"method": row.name, "parameters": parameters, "members": members, "seed": seed}


def linear(*members: tuple[str, float]) -> Recipe:
    return Recipe.build("linear", {}, members)


@given(arguments())
def test_the_text_gives_the_recipe_back(given_: dict[str, Any]) -> None:
    recipe = Recipe.build(**given_)
    again = Recipe.parse(recipe.json())
    assert again == recipe
    assert (again.json(), again.digest) == (recipe.json(), recipe.digest)


@given(arguments(), st.randoms())
def test_order_that_means_nothing_changes_no_digest(given_: dict[str, Any], source: Any) -> None:
    lists = {k: v for k, v in given_["parameters"].items() if isinstance(v, list)}
    order = list(range(len(given_["members"])))
    source.shuffle(order)
    members = [given_["members"][i] for i in order]
    moved = {name: [value[i] for i in order] for name, value in lists.items()}
    other = {**given_, "members": members, "parameters": {**given_["parameters"], **moved}}
    same = Recipe.build(**other).digest == Recipe.build(**given_).digest
    assert same or not METHODS[given_["method"]].sorts


@given(arguments())
def test_defaults_may_be_left_out(given_: dict[str, Any]) -> None:
    recipe = Recipe.build(**given_)
    told = {
        **given_,
        "parameters": recipe.parameters,
        "members": recipe.members,
        "seed": recipe.seed,
    }
    assert Recipe.build(**told).digest == recipe.digest


@pytest.mark.parametrize("method", KEEPING)
def test_equal_members_stay_two_where_that_means_something(method: str) -> None:
    lists = {p.name: [1.0, 2.0] for p in METHODS[method].parameters if isinstance(p, MemberNumbers)}
    recipe = Recipe.build(method, lists, [(A, 1.0), (A, 1.0)])
    assert recipe.members == (Member(A, 1.0), Member(A, 1.0))


@pytest.mark.parametrize("method", FOLDING)
def test_equal_members_are_folded_where_that_means_nothing(method: str) -> None:
    folded = Recipe.build(method, {}, [(B, 1.0), (A, 0.25), (B, 0.5), (A, 0.5)])
    assert folded == Recipe.build(method, {}, [(A, 0.75), (B, 1.5)])


def test_there_are_methods_of_either_kind() -> None:
    assert SORTING
    assert FOLDING
    assert KEEPING


@given(st.lists(WEIGHTS, min_size=2, max_size=6), st.randoms())
def test_folding_does_not_depend_on_the_order(weights: list[float], source: Any) -> None:
    members = [(A, weight) for weight in weights]
    shuffled = source.sample(members, len(members))
    assert linear(*members) == linear(*shuffled)


@given(st.floats(-1e30, 1e30))
def test_weights_that_are_one_fp32_number_are_one_weight(weight: float) -> None:
    assert linear((A, weight)) == linear((A, round_to_fp32(weight)))
    assert json.loads(linear((A, weight)).json())["members"] == [
        [A, fp32_hex(round_to_fp32(weight) + 0.0)]
    ]


@pytest.mark.parametrize("method", ["linear", "average"])
def test_negative_zero_is_zero(method: str) -> None:
    texts = {Recipe.build(method, {}, [(A, zero)]).json() for zero in (0.0, -0.0, -1e-60)}
    assert len(texts) == 1


@given(WEIGHTS, WEIGHTS)
def test_other_weights_are_another_recipe(first: float, second: float) -> None:
    assert (linear((A, first)).digest == linear((A, second)).digest) == (first == second)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (1e39, "finite"),
        pytest.param(10**400, "finite", id="huge"),
        (True, "finite"),
        ("1", "finite"),
        (None, "finite"),
    ],
    ids=str,
)
def test_weight_that_is_no_fp32_number_is_refused(weight: Any, said: str) -> None:
    with pytest.raises(InvalidMerge, match=said) as caught:
        linear((A, 1.0), (B, weight))
    assert caught.value.field == "members.1.weight"


def test_weights_whose_sum_is_no_fp32_number_are_refused() -> None:
    with pytest.raises(InvalidMerge) as caught:
        linear((A, 3e38), (A, 3e38))
    assert caught.value.field == "members"


@pytest.mark.parametrize("count", [0, MAX_MEMBERS + 1, 1000])
def test_number_of_members_is_bounded(count: int) -> None:
    with pytest.raises(InvalidMerge) as caught:
        linear(*[(digest(number), 1.0) for number in range(count)])
    assert (caught.value.field, caught.value.value) == ("members", count)


def test_the_most_members_are_taken() -> None:
    recipe = linear(*[(digest(number), 1.0) for number in range(MAX_MEMBERS)])
    assert len(recipe.members) == MAX_MEMBERS


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"method": "magic"}, "method"),
        ({"method": None}, "method"),
        ({"method": ["linear"]}, "method"),
        ({"parameters": {"densty": 0.5}}, "densty"),
        ({"seed": 1}, "seed"),
    ],
    ids=str,
)
def test_what_the_table_does_not_know_is_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMerge) as caught:
        Recipe.build(**{"method": "linear", "parameters": {}, "members": [(A, 1.0)], **arguments})
    assert caught.value.field == field


def _changed(**fields: Any) -> str:
    value = json.loads(linear((A, 1.0), (B, 2.0)).json())
    return json.dumps({k: v for k, v in {**value, **fields}.items() if v != "absent"})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "recipe"),
        ("nonsense", "recipe"),
        ("[" * 100_000, "recipe"),
        ("[]", "recipe"),
        ("{}", "recipe"),
        (_changed(format="intarsia-recipe/2"), "recipe"),
        (_changed(extra=1), "recipe.extra"),
        (_changed(method="absent"), "recipe.method"),
        (_changed(method=["linear"]), "recipe.method"),
        (_changed(method="magic"), "method"),
        (_changed(parameters=None), "recipe.parameters"),
        (_changed(parameters={"density": 1}), "density"),
        (_changed(members="absent"), "recipe.members"),
        (_changed(members=[]), "members"),
        (_changed(members=[A]), "recipe.members.0"),
        (_changed(members=[[A]]), "recipe.members.0"),
        (_changed(members=[[A, 1.0]]), "recipe.members.0"),
        (_changed(members=[["sql@3", "3f800000"]]), "recipe.members.0"),
        (_changed(members=[[A, "3f800000"], [B, "3F800000"]]), "recipe.members.1"),
        (_changed(members=[[A, "7fc00000"]]), "members.0.weight"),
        (_changed(members=[[A, "7f800000"]]), "members.0.weight"),
        (_changed(seed=5), "seed"),
    ],
)
def test_text_that_is_no_recipe_is_refused_by_its_field(text: str, field: str) -> None:
    with pytest.raises(InvalidMerge) as caught:
        Recipe.parse(text)
    assert caught.value.field == field


def test_the_order_of_a_written_recipe_means_nothing() -> None:
    value = json.loads(linear((A, 1.0), (B, 2.0)).json())
    value["members"].reverse()
    text = json.dumps(dict(reversed(value.items())), indent=2)
    assert Recipe.parse(text) == linear((A, 1.0), (B, 2.0))


def test_digest_is_frozen() -> None:
    """Stored merges name their recipes: the encoding of what exists must never change."""
    recipe = Recipe.build("overlap_average", {}, [(B, 1.0), (A, 0.1)])
    assert recipe.json() == (
        '{"format":"intarsia-recipe/1",'
        f'"members":[["{A}","3dcccccd"],["{B}","3f800000"]],'
        '"method":"overlap_average","parameters":{}}'
    )

"""Ski rental against an optimum that knows the future: at most 2 times, or 3 where costs go both
ways."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.adapters.composition import BASE, Composition
from server.engine.renting import SWITCH, TOKENS_AT_ONCE, SkiRental, step_cost, switch_cost

A, B, AB = (
    Composition.linear([(f"sha256:{letter}", 1.0) for letter in letters])
    for letters in ("a", "b", "ab")
)
SIZES = {"sha256:a": 100, "sha256:b": 1000}
Costs = Sequence[tuple[float, float]]  # of each step, with the base in the weights and with A


def size_of(digest: str) -> int:
    return SIZES[digest]


def states_chosen(steps: Costs, price: float) -> list[Composition]:
    policy, states = SkiRental(), [BASE]
    for base, fused in steps:
        costs = {BASE: base, A: fused}
        now = policy.choose(states[-1], costs.__getitem__, lambda c: price if c == A else 0.0, {A})
        states.append(now)
    return states


def online_cost(steps: Costs, price: float) -> float:
    """What the policy pays; a switch is half of going there and back."""
    states = states_chosen(steps, price)
    switches = sum(before != after for before, after in pairwise(states))
    return switches * price / 2 + sum(
        costs[now == A] for costs, now in zip(steps, states[1:], strict=True)
    )


def best_cost(steps: Costs, price: float) -> float:
    """The optimum over all ways of switching, by dynamic programming."""
    base, fused = 0.0, price / 2
    for step in steps:
        base, fused = base + step[0], fused + step[1]
        base, fused = min(base, fused + price / 2), min(fused, base + price / 2)
    return min(base, fused)


amounts = st.floats(0, 10)
prices = st.floats(0.1, 20)


@settings(max_examples=200, deadline=None)
@given(st.lists(amounts, max_size=60), prices)
def test_renting_costs_twice_the_optimum_at_most(rents: list[float], price: float) -> None:
    """The season is over when it is over: whatever was bought has to be given back."""
    steps = [(rent, 0.0) for rent in rents]
    states = states_chosen(steps, price)
    has_bought = A in states
    paid = sum(rent for rent, now in zip(rents, states[1:], strict=True) if now == BASE)
    optimum = min(sum(rents), price)
    assert paid + has_bought * price <= 2 * optimum * (1 + 1e-9)


@pytest.mark.parametrize("after", [0, 1, 1000])
@pytest.mark.parametrize("rent", [0.01, 0.999, 1.0, 3.0, 100.0])
def test_the_worst_season_ends_as_soon_as_something_was_bought(rent: float, after: int) -> None:
    days = -(-100.0 // rent)
    steps = [(rent, 0.0)] * (int(days) + after)
    states = states_chosen(steps, 100.0)
    assert states[int(days)] == A, "bought once rent would reach the price"
    assert BASE in states[: int(days)]
    paid = rent * (states.count(BASE) - 1)
    assert paid < 100.0
    assert paid + 100.0 <= 2 * min(rent * len(steps), 100.0) + rent * 1e-6


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(amounts, amounts), max_size=60), prices)
def test_going_back_and_forth_costs_three_times_the_optimum_at_most(
    steps: list[tuple[float, float]], price: float
) -> None:
    assert online_cost(steps, price) <= 3 * best_cost(steps, price) + price + 1e-6


@pytest.mark.parametrize("length", [1, 10, 1000])
def test_an_adversary_who_always_asks_for_the_other_gets_three_times_at_most(length: int) -> None:
    policy, now, steps = SkiRental(), BASE, []
    for _ in range(length):
        costs = {BASE: 0.0, A: 0.0, now: 1.0}
        steps.append((costs[BASE], costs[A]))
        now = policy.choose(now, costs.__getitem__, lambda c: 7.0 if c == A else 0.0, {A})
    assert online_cost(steps, 7.0) <= 3 * best_cost(steps, 7.0) + 7.0


def test_what_others_put_into_the_weights_begins_anew() -> None:
    policy = SkiRental()
    cost = {BASE: 3.0, A: 0.0, B: 3.0}.__getitem__
    price = {BASE: 0.0, A: 10.0, B: 10.0}.__getitem__
    assert [policy.choose(BASE, cost, price, {A}) for _ in range(4)] == [BASE, BASE, BASE, A]
    # A request had B fused meanwhile: out of it and into A is dearer, and nothing was paid for yet.
    chosen = [policy.choose(B, cost, price, {A}) for _ in range(7)]
    assert chosen == [B] * 6 + [A]


def test_only_what_is_allowed_is_chosen() -> None:
    policy = SkiRental()
    cost = {BASE: 100.0, A: 0.0, B: 1.0}.__getitem__
    price = {BASE: 0.0, A: 10.0, B: 10.0}.__getitem__
    assert policy.choose(BASE, cost, price, set()) == BASE
    assert policy.choose(BASE, cost, price, {B}) == B
    assert policy.choose(BASE, cost, price, {A, B}) == A, "what saves most"


def test_a_step_costs_what_its_pairs_read() -> None:
    once = 1 + 2 / TOKENS_AT_ONCE
    assert step_cost({BASE: 5}, BASE, size_of) == 0
    assert step_cost({BASE: 5, A: 2}, BASE, size_of) == 100 * once
    assert step_cost({A: 2}, A, size_of) == 0
    assert step_cost({A: 1, BASE: 2}, A, size_of) == 100 * once, "the others take it away again"
    assert step_cost({AB: 2}, BASE, size_of) == 1100 * once
    assert step_cost({B: 2, AB: 7}, AB, size_of) == (1000 + 1100) * once


def test_a_switch_costs_what_it_writes() -> None:
    assert switch_cost(BASE, size_of) == 0
    assert switch_cost(AB, size_of) == SWITCH * 1100

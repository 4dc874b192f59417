"""Comparisons are paired, row by row, and say no more than the rows do."""

import numpy as np
import pytest
from evaluation.drawn_samples import FEW, compare, interval, sample
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.evaluation.errors import ScoresRefused
from adapters_store.evaluation.metrics import NATS, PERCENT
from adapters_store.evaluation.resampling import Bootstrap, draw, pair
from adapters_store.evaluation.scores import Sample

PAIRS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30)


@given(PAIRS)
def test_comparison_counts_and_is_paired(pairs: list[tuple[float, float]]) -> None:
    a, b = ([sample(side)] for side in zip(*pairs, strict=True))
    found, back = compare(a, b, PERCENT, FEW), compare(b, a, PERCENT, FEW)
    assert found.low <= found.delta <= found.high
    assert found.delta == pytest.approx(np.mean([x - y for x, y in pairs]), abs=1e-9)
    assert found.wins == sum(x > y for x, y in pairs) == back.losses
    assert found.losses == sum(x < y for x, y in pairs) == back.wins
    assert found.wins + found.losses + found.ties == found.n == len(pairs)
    assert 0 < found.p_value <= 1
    assert back.delta == -found.delta
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


def test_lower_is_better_wins_with_less() -> None:
    found = compare([sample([1.0, 1.0, 2.0, 3.0])], [sample([2.0, 4.0, 2.0, 1.0])], NATS, FEW)
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
    assert found.delta == pytest.approx(-0.5)


def test_a_small_gain_on_every_row_is_seen_where_unpaired_intervals_overlap() -> None:
    rng = np.random.default_rng(3)
    base = rng.uniform(20, 80, 200)
    a, b = [sample(list(base + rng.uniform(1, 3, 200)))], [sample(list(base))]
    assert interval(a, NATS, FEW).low < interval(b, NATS, FEW).high
    found = compare(a, b, NATS, FEW)
    assert found.low > 1.5
    assert found.p_value == pytest.approx(1 / 201)  # the least that so many draws can say


def test_what_is_equal_is_not_told_apart() -> None:
    rows = [sample([0.0, 50.0, 100.0] * 30)]
    found = compare(rows, rows, PERCENT, FEW)
    assert (found.delta, found.p_value, found.ties) == (0, 1, 90)
    assert -5 < found.low < 0 < found.high < 5


def test_p_value_of_few_rows_is_that_of_all_swaps() -> None:
    """Four rows, all won by as much: of 16 ways to swap, 2 are as large."""
    found = compare([sample([2.0] * 4)], [sample([1.0] * 4)], PERCENT, Bootstrap(resamples=20_000))
    assert found.p_value == pytest.approx(2 / 16, abs=0.01)


def test_swaps_weigh_rows_and_tasks_swap_apart() -> None:
    weights = [1.0] * 30 + [70.0]
    a, b = draw([(sample([1.0] * 31, weights), NATS), (sample([0.0] * 31, weights), NATS)], FEW)
    swapped = pair(a, b, FEW).swapped
    heavy = np.abs(swapped) >= 0.4  # the last row alone moves 0.7 of the score one way or other
    assert heavy.all()
    assert (swapped != pair(a, b, FEW, stratum=1).swapped).any()


def test_p_value_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(8)
    values = [
        compare(
            [sample(list(rng.normal(50, 9, 40)))],
            [sample(list(rng.normal(50, 9, 40)))],
            PERCENT,
            Bootstrap(resamples=100, seed=seed),
        ).p_value
        for seed in range(300)
    ]
    assert np.mean(np.array(values) < 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_score(pairs: list[tuple[float, float]], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = (
        compare([sample([x for x, _ in each])], [sample([y for _, y in each])], PERCENT, FEW)
        for each in (pairs, shuffled)
    )
    assert (before.delta, before.wins) == (after.delta, after.wins)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([sample([1, 2])], [sample([1])], "same rows"),
        ([sample([1, 2], [1, 2])], [sample([1, 2], [2, 1])], "same rows"),
    ],
)
def test_only_the_same_rows_are_compared(a: list[Sample], b: list[Sample], reason: str) -> None:
    with pytest.raises(ScoresRefused, match=reason):
        compare(a, b, PERCENT, FEW)

"""Intervals hold what they promise and depend on the seed alone."""

from dataclasses import asdict
from math import exp

import numpy as np
import pytest
from evaluation.drawn_samples import FEW, compare, interval, sample
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.evaluation import resampling
from adapters_store.evaluation.errors import InvalidSetting, ScoresRefused
from adapters_store.evaluation.metrics import NATS, PERCENT, PERPLEXITY
from adapters_store.evaluation.resampling import Bootstrap, draw
from adapters_store.evaluation.scores import Sample, Scale, Score
from adapters_store.evaluation.statistics import unseen_share

PERCENTS = st.lists(st.floats(0, 100), min_size=1, max_size=30)


@given(st.lists(PERCENTS, min_size=1, max_size=3), st.sampled_from([PERCENT, NATS, PERPLEXITY]))
def test_interval_holds_the_point_estimate_and_keeps_its_bounds(
    tasks: list[list[float]], scale: Scale
) -> None:
    found = interval([sample(each) for each in tasks], scale, FEW)
    assert found.low <= found.mean <= found.high
    assert found.n == sum(map(len, tasks))
    if scale is PERCENT:
        assert found.low >= -1e-9
        assert found.high <= 100 + 1e-9


@pytest.mark.parametrize("sign", [1, -1])
def test_interval_of_next_to_no_confidence_holds_the_point_estimate(sign: int) -> None:
    skewed = [sample([sign * 2.0**i for i in range(12)])]  # draws' median is far from the mean
    found = interval(skewed, NATS, Bootstrap(0.01, 200))
    assert found.low <= found.mean <= found.high


def test_all_that_is_scored_on_the_same_rows_is_drawn_alike() -> None:
    one, other = sample([1.0, 5.0, 9.0]), sample([2.0, 6.0, 10.0])
    drawn = draw([(one, NATS), (other, NATS)], FEW)
    assert drawn[1].replicates - drawn[0].replicates == pytest.approx(1)
    again, apart = draw([(one, NATS)], FEW)[0], draw([(one, NATS)], FEW, stratum=1)[0]
    assert again.replicates == pytest.approx(drawn[0].replicates)
    assert (apart.replicates != again.replicates).any()
    assert draw([], FEW) == []


@given(PERCENTS, PERCENTS)
def test_tasks_weigh_alike_however_many_rows_they_have(a: list[float], b: list[float]) -> None:
    found = interval([sample(a), sample(b)], PERCENT, FEW).mean
    assert found == pytest.approx((np.mean(a) + np.mean(b)) / 2)


def test_perplexity_is_that_of_all_tokens_and_its_mean_is_over_tasks() -> None:
    one, other = sample([1.0, 0.5], [1, 4]), sample([2.0], [7])
    assert interval([one], PERPLEXITY, FEW).mean == pytest.approx(exp(0.6))
    assert interval([one, other], PERPLEXITY, FEW).mean == pytest.approx((exp(0.6) + exp(2)) / 2)


def test_rows_are_drawn_with_their_weights() -> None:
    found = interval([sample([2.0] * 5, [1, 2, 3, 50, 100])], NATS, FEW)
    assert (found.low, found.mean, found.high) == pytest.approx((2, 2, 2))


def test_interval_of_perplexity_is_that_of_loss_seen_through_exp() -> None:
    rng = np.random.default_rng(1)
    rows = sample(list(rng.gamma(2, 1, 50)), list(rng.integers(1, 9, 50)))
    loss, perplexity = (interval([rows], scale, FEW) for scale in (NATS, PERPLEXITY))
    assert [perplexity.low, perplexity.mean, perplexity.high] == pytest.approx(
        [exp(loss.low), exp(loss.mean), exp(loss.high)]
    )


def test_same_seed_same_interval_and_another_seed_another() -> None:
    rows = [sample(list(range(50)))]
    assert interval(rows, PERCENT, Bootstrap(seed=1)) == interval(rows, PERCENT, Bootstrap(seed=1))
    assert interval(rows, PERCENT, Bootstrap(seed=1)) != interval(rows, PERCENT, Bootstrap(seed=2))


def test_memory_for_draws_is_bounded_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, other = [sample(list(range(50)))], [sample(list(range(50))[::-1])]
    whole = interval(rows, PERCENT, FEW), compare(rows, other, PERCENT, FEW)
    monkeypatch.setattr(resampling, "MAX_DRAWS_AT_ONCE", 64)  # a resample at a time
    parts = interval(rows, PERCENT, FEW), compare(rows, other, PERCENT, FEW)
    assert asdict(parts[0]) == pytest.approx(asdict(whole[0]))
    assert asdict(parts[1]) == pytest.approx(asdict(whole[1]))


def test_wider_confidence_is_a_wider_interval() -> None:
    rows = [sample(list(range(50)))]
    widths = [
        (found := interval(rows, PERCENT, Bootstrap(confidence))).high - found.low
        for confidence in (0.5, 0.8, 0.95, 0.99)
    ]
    assert widths == sorted(widths)


@pytest.mark.parametrize("n", [1, 2, 20, 100])
def test_rows_all_right_have_the_exact_binomial_bound(n: int) -> None:
    found = interval([sample([100.0] * n)], PERCENT, FEW)
    assert (found.mean, found.high) == (100, 100)
    assert found.low == pytest.approx(100 * 0.025 ** (1 / n))  # Clopper and Pearson's


def test_one_row_says_next_to_nothing() -> None:
    found = interval([sample([60.0])], PERCENT, FEW)
    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(99)
    unbounded = interval([sample([0.7])], NATS, FEW)
    assert (unbounded.low, unbounded.mean, unbounded.high) == (0.7, 0.7, 0.7)


def test_rows_all_equal_in_many_tasks_count_together() -> None:
    one = interval([sample([100.0] * 80)], PERCENT, FEW)
    four = interval([sample([100.0] * 20)] * 4, PERCENT, FEW)
    assert one.low == four.low


def test_of_unequal_tasks_the_smallest_says_what_may_be_unseen() -> None:
    assert unseen_share([10, 1000], 0.05) == unseen_share([10, 10], 0.05)
    assert unseen_share([10, 10], 0.05) == pytest.approx(1 - 0.05 ** (1 / 20))


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        pytest.param(lambda rng, n: 100.0 * (rng.random(n) < 0.7), 70, id="right or wrong"),
        pytest.param(lambda rng, n: 100 * rng.beta(1, 3, n), 25, id="skewed"),
    ],
)
def test_interval_covers_the_truth_as_often_as_it_says(draw: object, truth: float) -> None:
    assert callable(draw)
    rng, covered = np.random.default_rng(5), 0
    for seed in range(300):
        found = interval([sample(list(draw(rng, 60)))], PERCENT, Bootstrap(0.9, 300, seed))
        covered += found.low <= truth <= found.high
    assert 0.86 <= covered / 300 <= 0.94


def test_interval_over_tasks_draws_rows_within_their_task() -> None:
    """Tasks far apart: were rows drawn across them, the interval would be as wide as that."""
    low, high = sample([9.0, 11.0] * 20), sample([89.0, 91.0] * 20)
    found = interval([low, high], NATS, FEW)
    assert 49.5 < found.low < 50 < found.high < 50.5


def test_ten_thousand_rows_are_drawn_in_parts() -> None:
    values = list(np.random.default_rng(2).uniform(0, 100, 10_000))
    found = interval([sample(values)], PERCENT, Bootstrap())
    half = 1.96 * 28.87 / 100  # of the normal approximation
    assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half], abs=0.1)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([], "there are none"),
        ([Score(1.0), Score(float("nan"))], "row 2 has"),
        ([Score(float("inf"))], "row 1 has"),
        ([Score(1.0, 0.0)], "row 1 has"),
        ([Score(1.0, -1.0)], "row 1 has"),
        ([Score(1.0, float("nan"))], "row 1 has"),
    ],
)
def test_scores_that_say_nothing_are_refused(scores: list[Score], reason: str) -> None:
    with pytest.raises(ScoresRefused, match=reason):
        Sample.of(scores)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("confidence", 0.0),
        ("confidence", 1.0),
        ("confidence", float("nan")),
        ("resamples", 0),
        ("resamples", 100_001),
        ("seed", -1),
    ],
)
def test_settings_that_do_not_do_are_named(field: str, value: float) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Bootstrap(**{field: value})  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.value) == (field, value)

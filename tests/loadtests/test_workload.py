"""Workloads: the same for the same seed, and distributed as they say."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.workload import TOKEN_IDS, Length, Workload, asks

LENGTHS = st.builds(
    Length,
    st.integers(1, 300),
    sigma=st.sampled_from([0.0, 0.5, 1.5]),
    least=st.integers(1, 20),
    most=st.integers(20, 400),
)
CLOSED = Workload(40, Length(16), Length(8), at_once=4)
OPEN = replace(CLOSED, requests=4000, at_once=None, per_s=5.0, prompt=Length(1))


@given(LENGTHS, LENGTHS, st.integers(0, 5), st.sampled_from([None, 1.0]), st.integers())
def test_a_seed_says_everything(
    prompt: Length, answer: Length, adapters: int, zipf: float | None, seed: int
) -> None:
    load = Workload(20, prompt, answer, at_once=3, adapters=adapters, zipf=zipf)
    found = asks(load, seed)
    assert found == asks(load, seed)
    assert [ask.prompt for ask in found] != [ask.prompt for ask in asks(load, seed + 1)]
    for ask in found:
        assert prompt.least <= len(ask.prompt) <= prompt.most
        assert answer.least <= ask.answer_tokens <= answer.most
        assert all(token in TOKEN_IDS for token in ask.prompt)
        assert ask.adapter is None if not adapters else ask.adapter in range(adapters)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"adapters": 3}, ("prompt", "answer_tokens", "at_s")),
        ({"adapters": 3, "zipf": 1.0}, ("prompt", "answer_tokens", "at_s")),
        ({"at_once": None, "per_s": 2.0}, ("prompt", "answer_tokens", "adapter")),
        ({"answer": Length(8, 0.5)}, ("prompt", "adapter", "at_s")),
        ({"prompt": Length(16, 0.5)}, ("answer_tokens", "adapter", "at_s")),
    ],
)
def test_a_workload_that_differs_in_one_property_is_the_same_in_all_others(
    change: dict[str, object], same: tuple[str, ...]
) -> None:
    load = replace(CLOSED, answer=Length(8, 0.3))
    other = replace(load, **change)  # type: ignore[arg-type]
    for field in same:
        before, after = ([getattr(ask, field) for ask in asks(each, 7)] for each in (load, other))
        assert before == after, field


def test_no_two_prompts_begin_alike() -> None:
    """Else a prefix cache would answer for the model."""
    starts = [tuple(ask.prompt[:8]) for ask in asks(replace(CLOSED, requests=2000), 0)]
    assert len(set(starts)) == len(starts)


def test_open_arrivals_are_a_poisson_process() -> None:
    times = [ask.at_s for ask in asks(OPEN, 0)]
    gaps = [after - before for before, after in pairwise(times)]
    assert times == sorted(times)
    assert fmean(gaps) == pytest.approx(1 / 5, rel=0.05)
    # Memoryless: a gap is longer than its mean with probability 1/e.
    assert fmean(gap > 1 / 5 for gap in gaps) == pytest.approx(0.368, abs=0.03)


def test_closed_arrivals_wait_for_seats_alone() -> None:
    assert {ask.at_s for ask in asks(CLOSED, 0)} == {0.0}


def test_adapters_come_in_turn() -> None:
    load = replace(CLOSED, adapters=3)
    assert [ask.adapter for ask in asks(load, 0)][:5] == [0, 1, 2, 0, 1]


def test_popular_adapters_follow_zipf() -> None:
    load = replace(OPEN, adapters=4, zipf=1.0)
    counts = Counter(ask.adapter for ask in asks(load, 0))
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    for number in range(4):
        share = counts[number] / load.requests
        assert share == pytest.approx(1 / (number + 1) / total, abs=0.03)


def test_lengths_lie_around_their_median() -> None:
    length = Length(100, sigma=0.5, least=1, most=10_000)
    load = replace(CLOSED, requests=2000, prompt=Length(1), answer=length)
    below = fmean(ask.answer_tokens < 100 for ask in asks(load, 0))
    assert below == pytest.approx(0.5, abs=0.05)

"""Choosing tokens: against transformers' own logits processors, and the law of large numbers."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from server.engine.errors import InvalidParameter, LogitsUnusable
from server.engine.sampler import (
    NUCLEUS_GUESS,
    LogitsRow,
    _probabilities,
    rows_of,
    sample,
    token_logprobs,
)
from server.engine.sampling_params import SamplingParams
from server.kernels.reference import ReferenceKernels

LOGITS = torch.tensor([1.0, 3.0, 2.0, 3.0, -1.0, 0.5])
NO_EOS: frozenset[int] = frozenset()


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 8, **fields})


def row_of(logits: torch.Tensor) -> LogitsRow:
    return rows_of(logits[None], ReferenceKernels("cpu").summarize(logits[None]))[0]


def choose(logits: torch.Tensor, output: list[int] | None = None, **fields: Any) -> int:
    return sample(row_of(logits), params(**fields), [], output or [], NO_EOS).token_id


def test_greedy_takes_the_lowest_id_of_equal_logits() -> None:
    assert choose(LOGITS, temperature=0) == 1


def test_logits_are_left_as_they_were() -> None:
    before = LOGITS.clone()
    choose(LOGITS, output=[1], temperature=0.5, presence_penalty=1, logit_bias={0: 5}, top_k=2)
    assert torch.equal(LOGITS, before)


def random_logits(seed: int) -> torch.Tensor:
    return torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 3),
    top_k=st.integers(1, 40),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
)
def test_kept_tokens_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(seed).double()[None]
    ids = torch.zeros(1, 1, dtype=torch.long)
    theirs = TemperatureLogitsWarper(temperature)(ids, logits)
    for warper in (MinPLogitsWarper(min_p), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        theirs = warper(ids, theirs)
    wanted = params(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ours = _probabilities(random_logits(seed), wanted)
    expected = torch.softmax(theirs[0], -1)
    torch.testing.assert_close(ours / ours.sum(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits, prompt, output = random_logits(3), [1, 2, 2], [5, 1]
    ids = torch.tensor([[*prompt, *output]])
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())
    wanted = params(temperature=0, repetition_penalty=penalty)
    ours = sample(row_of(logits), wanted, prompt, output, NO_EOS).token_id
    assert ours == int(theirs.argmax())


def test_presence_and_frequency_count_output_only() -> None:
    logits = torch.tensor([0.0, 1.0, 0.9])
    wanted = {"temperature": 0, "presence_penalty": 0.05, "frequency_penalty": 0.03}
    assert sample(row_of(logits), params(**wanted), [1, 1, 1, 1], [], NO_EOS).token_id == 1
    assert sample(row_of(logits), params(**wanted), [], [1], NO_EOS).token_id == 1
    assert sample(row_of(logits), params(**wanted), [], [1, 1], NO_EOS).token_id == 2


def test_bias_moves_the_choice() -> None:
    assert choose(LOGITS, temperature=0, logit_bias={4: 10.0}) == 4
    assert choose(LOGITS, temperature=0, logit_bias={1: -10.0}) == 3


def test_no_ending_before_min_tokens() -> None:
    wanted = params(temperature=0, min_tokens=2, stop_token_ids=frozenset({3}))
    ending = frozenset({1})
    assert sample(row_of(LOGITS), wanted, [], [], ending).token_id == 2
    assert sample(row_of(LOGITS), wanted, [], [0], ending).token_id == 2
    assert sample(row_of(LOGITS), wanted, [], [0, 0], ending).token_id == 1


def test_draws_follow_the_distribution() -> None:
    count = 4000
    drawn = Counter(choose(LOGITS, temperature=1.0, seed=seed) for seed in range(count))
    for token_id, probability in enumerate(torch.softmax(LOGITS, -1).tolist()):
        sd = (count * probability * (1 - probability)) ** 0.5
        assert abs(drawn[token_id] - count * probability) < 4.5 * sd


def test_draws_of_one_seed_follow_the_distribution_along_the_output() -> None:
    drawn = Counter(
        choose(LOGITS, output=[0] * index, temperature=1.0, seed=7) for index in range(2000)
    )
    assert abs(drawn[1] - drawn[3]) < 150
    assert drawn[4] < drawn[2] < drawn[1]


def test_seed_and_position_decide_a_draw() -> None:
    flat = torch.zeros(1000)
    first = choose(flat, temperature=1.0, seed=5)
    assert choose(flat, temperature=1.0, seed=5) == first
    others = {choose(flat, temperature=1.0, seed=seed) for seed in range(6, 30)}
    others |= {choose(flat, output=[0] * n, temperature=1.0, seed=5) for n in range(1, 30)}
    assert len(others) > 40


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**63), top_k=st.integers(1, 5))
def test_a_draw_is_always_a_kept_token(seed: int, top_k: int) -> None:
    logits = torch.tensor([0.0, -200.0, 5.0, -1e9, 4.0, -300.0])
    kept = set(torch.topk(logits, top_k).indices.tolist())
    assert choose(logits, temperature=1.0, seed=seed, top_k=top_k) in kept


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-45, 1e-5])
@pytest.mark.parametrize("seed", range(4))
def test_the_lowest_temperatures_draw_a_likeliest_token(temperature: float, seed: int) -> None:
    assert choose(LOGITS, temperature=temperature, seed=seed) in (1, 3)


@pytest.mark.parametrize("cuts", [{"top_k": 1}, {"top_k": 3, "min_p": 0.1}, {}])
def test_the_lowest_top_p_keeps_the_likeliest_token(cuts: dict[str, Any]) -> None:
    logits = random_logits(1)
    assert choose(logits, top_p=5e-324, temperature=100, **cuts) == int(logits.argmax())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_penalty_that_would_overflow_leaves_a_choice(temperature: float) -> None:
    wanted = params(temperature=temperature, repetition_penalty=1e-320)
    assert sample(row_of(LOGITS), wanted, [2, 4], [], NO_EOS).token_id == 2


@pytest.mark.parametrize("spread", [0.001, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 0.9999])
def test_nucleus_of_a_large_vocabulary_is_that_of_transformers(spread: float, top_p: float) -> None:
    source = torch.Generator().manual_seed(1)
    logits = spread * torch.randn(20 * NUCLEUS_GUESS, generator=source)
    theirs = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.long), logits.double()[None])
    ours = _probabilities(logits, params(top_p=top_p))
    assert torch.equal(ours > 0, theirs[0].isfinite())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits",
    [torch.full((6,), torch.nan), torch.tensor([0.0, torch.nan]), torch.tensor([torch.inf])],
)
def test_logits_that_are_no_numbers_are_never_sampled(
    logits: torch.Tensor, temperature: float
) -> None:
    with pytest.raises(LogitsUnusable):
        choose(logits, temperature=temperature)
    with pytest.raises(LogitsUnusable):
        token_logprobs(row_of(logits), 0, 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_ban_on_every_token_is_told(temperature: float) -> None:
    wanted = params(temperature=temperature, min_tokens=2, stop_token_ids=frozenset(range(6)))
    with pytest.raises(LogitsUnusable):
        sample(row_of(LOGITS), wanted, [], [], NO_EOS)


def test_logprobs_are_of_the_model_not_of_the_choice() -> None:
    wanted = params(temperature=0.1, logit_bias={4: 100.0}, logprobs=2)
    entry = sample(row_of(LOGITS), wanted, [], [], NO_EOS).logprobs
    assert entry is not None
    expected = torch.log_softmax(LOGITS, -1)
    assert (entry.token_id, entry.rank) == (4, 6)
    assert entry.logprob == expected[4]
    assert [logprob for _, logprob in entry.top] == [expected[1], expected[3]]


def test_most_likely_token_has_rank_one_and_its_own_float() -> None:
    entry = token_logprobs(row_of(LOGITS), 1, 1)
    assert entry.rank == 1
    assert entry.top == ((entry.top[0][0], entry.logprob),)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -2),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", float("inf")),
        ("repetition_penalty", 0.0),
        ("min_tokens", 9),
        ("stop", ("",)),
        ("logit_bias", {3: 1.0, 4: float("nan")}),
        ("logit_bias", {3: float("-inf")}),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
    ],
)
def test_value_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidParameter, match=field) as caught:
        params(**{field: value})
    assert caught.value.field == field

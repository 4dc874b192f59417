"""Prompt log-probabilities: those of transformers, however the prompt came to be computed."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pytest
import torch
from engines import Collected, MakeEngine, RealEngine, request, run_to_end, weights_with
from torch import Tensor
from transformers import AutoModelForCausalLM

from server.adapters.composition import BASE, Composition
from server.engine.engine import Engine
from server.engine.sequence import TokenLogprobs
from server.plan.steps import LOGIT_ROWS_AT_ONCE

PROMPT = [(at * 7) % 300 + 5 for at in range(LOGIT_ROWS_AT_ONCE + 30)]
LENGTH = len(PROMPT)
TOLERANCE = 2e-4  # of transformers' own arithmetic, which differs between prompts in one go and not
SERVED = ("base", "element", "low rank, halved", "sum of three")


@pytest.fixture(scope="module")
def real(tiny_engine: MakeEngine) -> RealEngine:
    return tiny_engine("phi3-medium")


@pytest.fixture(scope="module")
def compositions(real: RealEngine) -> Mapping[str, Composition]:
    element, block, _, low_rank, *_ = real.adapters
    return {
        "base": BASE,
        "element": Composition.linear([(element, 1.0)]),
        "low rank, halved": Composition.linear([(low_rank, 0.5)]),
        "sum of three": Composition.linear([(element, 1.0), (block, -0.5), (low_rank, 2.0)]),
    }


@pytest.fixture(scope="module")
def expected(real: RealEngine, compositions: Mapping[str, Composition]) -> "Expected":
    @cache
    def logprobs(name: str) -> Tensor:
        """`[LENGTH, vocabulary]` of transformers with the deltas folded into its weights."""
        directory = real.checkpoint.directory
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        with torch.inference_mode():
            for digest, coefficient in compositions[name].members:
                for layer, change in weights_with(real.adapters[digest], coefficient).items():
                    model.get_submodule(layer).weight += change
            return torch.log_softmax(model(torch.tensor([PROMPT])).logits[0], -1)

    return Expected(logprobs)


class Expected:
    """What scores must be."""

    def __init__(self, logprobs: Callable[[str], Tensor]) -> None:
        self._logprobs = logprobs

    def check(self, name: str, scores: Sequence[TokenLogprobs], first: int = 1) -> None:
        """`scores` are those of the prompt's tokens from `first` on."""
        rows = self._logprobs(name)
        assert [entry.token_id for entry in scores] == PROMPT[first:]
        for row, entry in zip(rows[first - 1 :], scores, strict=False):
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=TOLERANCE)
            [(best, value)] = entry.top
            assert value == pytest.approx(float(row.max()), abs=TOLERANCE)
            assert (entry.rank == 1) == (best == entry.token_id)
            assert value == entry.logprob or entry.rank > 1  # one float for one token


def scores_of(collected: Collected, request_id: str) -> tuple[TokenLogprobs, ...]:
    [scores] = {o.prompt_logprobs for o in collected.outputs[request_id]} - {()}
    return scores


@pytest.mark.parametrize("budget", [1, 7, LOGIT_ROWS_AT_ONCE, 512])
@pytest.mark.parametrize("name", SERVED)
def test_scores_are_those_of_transformers_at_every_chunk_size(
    real: RealEngine,
    compositions: Mapping[str, Composition],
    expected: Expected,
    name: str,
    budget: int,
) -> None:
    engine, _ = real.engine(max_num_batched_tokens=budget)
    one = request("r", PROMPT, compositions[name], max_tokens=1, prompt_logprobs=1)
    expected.check(name, scores_of(run_to_end(engine, [one]), "r"))


@pytest.mark.parametrize("first", [1, 2, 41, LENGTH - 1, LENGTH])
@pytest.mark.parametrize("name", SERVED)
def test_a_prefix_hit_loses_no_score(
    real: RealEngine,
    compositions: Mapping[str, Composition],
    expected: Expected,
    name: str,
    first: int,
) -> None:
    """What is cached is read up to the first token whose logits are wanted, and no further."""
    engine, _ = real.engine()
    run_to_end(engine, [request("warm", PROMPT, compositions[name], max_tokens=1)])
    one = request(
        "r",
        PROMPT,
        compositions[name],
        max_tokens=0,
        prompt_logprobs=1,
        prompt_logprobs_from=first,
    )
    collected = run_to_end(engine, [one])
    cached = min(first - 1, LENGTH - 1) // engine.config.page_size * engine.config.page_size
    assert collected.last("r").num_cached == cached
    assert collected.tokens("r") == []
    if first < LENGTH:
        expected.check(name, scores_of(collected, "r"), first)
    else:
        assert collected.last("r").prompt_logprobs == ()


def test_a_batch_of_all_scores_each_as_alone(
    real: RealEngine, compositions: Mapping[str, Composition], expected: Expected
) -> None:
    engine, _ = real.engine(max_num_batched_tokens=50)
    requests = [
        request(name, PROMPT, compositions[name], max_tokens=2, prompt_logprobs=1)
        for name in SERVED
    ]
    collected = run_to_end(engine, requests)
    for name in SERVED:
        expected.check(name, scores_of(collected, name))


def test_preemption_loses_no_score_and_takes_none_twice(
    real: RealEngine, compositions: Mapping[str, Composition], expected: Expected
) -> None:
    engine = _cramped(real)
    requests = [
        request(name, PROMPT, compositions[name], max_tokens=20, prompt_logprobs=1, ignore_eos=True)
        for name in SERVED
    ]
    collected = run_to_end(engine, requests)
    assert engine.scheduler.counts.preemptions > 0
    for name in SERVED:
        expected.check(name, scores_of(collected, name))


def _cramped(real: RealEngine) -> Engine:
    """Pages for two prompts, but not for what follows them."""
    engine, _ = real.engine(num_pages=2 * (LENGTH // 4 + 2), max_num_batched_tokens=40)
    return engine

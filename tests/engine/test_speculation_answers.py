"""On a CPU answers with speculation are, to the bit, what they are without."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from engines import Collected, MakeEngine, RealEngine, RecordingRunner, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.adapters.composition import BASE, Composition
from server.engine.engine import Engine
from server.engine.sequence import GenerationRequest, Mode, TokenLogprobs
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.products import can_pack

FEW = dict.fromkeys((66, 67, 68), 100.0)  # what a model that answers little says
DRAFTS = 5


@dataclass(frozen=True)
class Answer:
    """Everything that a request gets."""

    tokens: list[int]
    text: str
    logprobs: list[TokenLogprobs]
    prompt_logprobs: list[TokenLogprobs]
    reason: object
    stop_reason: object
    error: str | None


def answers(collected: Collected) -> dict[str, Answer]:
    return {name: _answer(collected, name) for name in collected.outputs}


def _answer(collected: Collected, name: str) -> Answer:
    last = collected.last(name)
    return Answer(
        collected.tokens(name),
        collected.text(name),
        collected.logprobs(name),
        [score for output in collected.outputs[name] for score in output.prompt_logprobs],
        last.finish_reason,
        last.stop_reason,
        str(last.error) if last.error else None,
    )


def run(engine: Engine, requests: list[GenerationRequest]) -> dict[str, Answer]:
    """Each comes one step after the one before."""
    collected, waiting = Collected(), list(requests)
    for _ in range(2000):
        if not (waiting or engine.has_work):
            return answers(collected)
        if waiting:
            engine.add(waiting.pop(0))
        collected.add(engine.step())
        engine.check_integrity()
        for sequence in engine.scheduler.running:
            held = engine.scheduler.blocks.pages_for(sequence.num_computed)
            assert len(sequence.pages) == held
    raise AssertionError("no progress")


def compare(
    real: RealEngine, requests: list[GenerationRequest], **sizes: int
) -> tuple[Engine, Engine]:
    """The engines without drafts and with them, after they gave the same."""
    plain, recorded = real.engine(**sizes)
    drafting, runner = real.engine(**{"num_draft_tokens": DRAFTS, **sizes})
    found, expected = run(drafting, requests), run(plain, requests)
    assert found == expected
    assert [answer.error for answer in expected.values() if answer.error] == []
    assert_same_bits(recorded, runner)
    return plain, drafting


def assert_same_bits(plain: RecordingRunner, drafting: RecordingRunner) -> None:
    """Of every row that an answer was read from."""
    different = [
        key for key, row in plain.recorded.items() if not torch.equal(row, drafting.recorded[key])
    ]
    assert different == []


@pytest.fixture(scope="module", params=["phi3-mini", "phi4-mini", "mistral", "int8"])
def real(request: pytest.FixtureRequest, tiny_engine: MakeEngine) -> RealEngine:
    """Plain, longrope with tied embeddings, a sliding window, a quantized base."""
    if request.param == "int8":
        return tiny_engine("phi3-mini").with_kernels(Int8CpuKernels())
    if not can_pack():
        pytest.skip("this build of torch has no packed products")
    return tiny_engine(request.param)


def compositions(real: RealEngine) -> list[Composition]:
    """The base, one adapter of each kind, a sum, a routed mixture."""
    digests = list(real.adapters)
    summed = Composition.linear([(digests[0], 0.5), (digests[1], -0.7), (digests[3], 1.3)])
    routed = Composition.arrow([(digests[0], 1.0), (digests[3], 1.5)], 0.7, 2)
    return [BASE, *(Composition.linear([(d, 1.0)]) for d in digests[:4]), summed, routed]


def repeating(start: int, length: int) -> list[int]:
    """A prompt whose every five tokens are as those before, but for one now and then."""
    return [start + at % 5 + 40 * (at % 11 == 10) for at in range(length)]


def test_few_steps_give_the_same_bits(real: RealEngine) -> None:
    requests = [
        request(str(index), repeating(66, 14 + index), one, index, max_tokens=40, logprobs=3)
        for index, one in enumerate(compositions(real))
    ]
    plain, drafting = compare(real, requests)
    assert drafting.stats().accepted_tokens > 0
    assert drafting.stats().prefix_hits == plain.stats().prefix_hits


def test_draws_and_penalties_are_the_same(real: RealEngine) -> None:
    common: dict[str, Any] = {
        "temperature": 0.9,
        "max_tokens": 50,
        "logprobs": 2,
        "logit_bias": FEW,
    }
    requests = [
        request("draw", repeating(66, 20), **common, seed=3),
        request("cut", repeating(66, 21), **common, seed=4, top_k=2, min_p=0.01),
        request("kept on", repeating(66, 22), **common, top_p=0.9, min_tokens=40),
        request("punished", repeating(66, 23), **common, repetition_penalty=1.1),
        request("varied", repeating(66, 24), **common, frequency_penalty=0.1),
        request("scored", repeating(66, 25), **common, prompt_logprobs=1),
        request("greedy", repeating(66, 26), max_tokens=50, presence_penalty=-0.5),
    ]
    _, drafting = compare(real, requests)
    stats = drafting.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens


def test_preempted_sequences_go_on_with_their_drafts(real: RealEngine) -> None:
    requests = [
        request(str(index), repeating(66 + index, 14), max_tokens=60, ignore_eos=True)
        for index in range(6)
    ]
    _, drafting = compare(real, requests, num_pages=60, max_num_batched_tokens=30)
    assert drafting.stats().preemptions > 0
    assert drafting.stats().accepted_tokens > 0


def test_pages_made_of_drafts_serve_the_next_turn(real: RealEngine) -> None:
    engine, _ = real.engine(num_draft_tokens=DRAFTS)
    prompt = repeating(66, 9)
    first = run(engine, [request("a", prompt, max_tokens=8, logit_bias={66: 100.0})])["a"].tokens
    following = request("b", [*prompt, *first, 70], max_tokens=6)
    found = run(engine, [following])
    assert engine.stats().prefix_hits == 16
    plain, _ = real.engine()
    assert found == run(plain, [following])


def test_drafts_of_fused_sequences_change_no_bit(tiny_engine: MakeEngine) -> None:
    if not can_pack():
        pytest.skip("this build of torch has no packed products")
    real = tiny_engine("phi3-mini")
    fused = Composition.linear([(next(iter(real.adapters)), 1.0)])
    requests = [
        request(str(at), repeating(66, 12 + at), fused, mode=Mode.FUSED, max_tokens=40, logprobs=1)
        for at in range(2)
    ]
    found = []
    for num_draft_tokens in (0, DRAFTS):
        engine, runner = real.fusing_engine(num_draft_tokens=num_draft_tokens)
        found.append(run(engine, requests))
        assert runner.fuser is not None
        runner.fuser.undo()
    assert found[0] == found[1]
    assert engine.stats().accepted_tokens > 0


def test_a_row_that_is_no_number_fails_its_request_where_it_would_without(
    tiny_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was right before it is still given."""
    real = tiny_engine("phi3-mini")
    calm = RecordingRunner._logits

    def broken(self: RecordingRunner, *given: object) -> torch.Tensor:
        logits = calm(self, *given)  # type: ignore[arg-type]
        for values, row in zip(logits, given[2], strict=True):  # type: ignore[call-overload]
            if row.position == 33:
                values[:] = torch.nan
        return logits

    monkeypatch.setattr(RecordingRunner, "_logits", broken)
    one = request("a", repeating(66, 20), max_tokens=40, logit_bias={66: 100.0})
    plain, drafting = (real.engine(num_draft_tokens=count)[0] for count in (0, DRAFTS))
    expected = run(plain, [one])
    assert len(expected["a"].tokens) == 14
    assert expected["a"].error
    assert run(drafting, [one]) == expected
    assert drafting.stats().accepted_tokens > 0


samplings = st.fixed_dictionaries(
    {"max_tokens": st.integers(0, 30)},
    optional={
        "temperature": st.sampled_from([0.3, 1.0, 3.0]),
        "seed": st.integers(0, 9),
        "top_p": st.sampled_from([0.5, 0.95]),
        "top_k": st.integers(1, 3),
        "repetition_penalty": st.sampled_from([0.8, 1.2]),
        "frequency_penalty": st.sampled_from([-0.5, 0.5]),
        "logit_bias": st.just(FEW),
        "logprobs": st.integers(0, 2),
        "prompt_logprobs": st.integers(0, 1),
        "ignore_eos": st.booleans(),
        "stop": st.sampled_from([("CC",), ("BCD", "DD"), ("C",)]),
        "include_stop_str_in_output": st.booleans(),
        "stop_token_ids": st.just(frozenset({68})),
    },
)


@st.composite
def loads(draw: st.DrawFn) -> list[tuple[list[int], int, int, dict[str, Any]]]:
    """(prompt, composition, adapter_from, sampling) of a few requests."""
    made = []
    for _ in range(draw(st.integers(1, 5))):
        pattern = draw(st.lists(st.sampled_from([66, 67, 68, 200]), min_size=1, max_size=6))
        prompt = (pattern * 20)[: draw(st.integers(1, 40))]
        sampling: dict[str, Any] = draw(samplings)
        if draw(st.booleans()):
            sampling["min_tokens"] = draw(st.integers(0, sampling["max_tokens"]))
        made.append((prompt, draw(st.integers(0, 6)), draw(st.integers(0, 40)), sampling))
    return made


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    load=loads(),
    num_draft_tokens=st.integers(1, 9),
    page_size=st.sampled_from([1, 4, 32]),
    budget=st.sampled_from([6, 13, 100]),
    spare=st.integers(0, 60),
)
def test_every_answer_is_to_the_bit_what_it_is_without_drafts(
    real: RealEngine,
    load: list[tuple[list[int], int, int, dict[str, Any]]],
    num_draft_tokens: int,
    page_size: int,
    budget: int,
    spare: int,
) -> None:
    every = compositions(real)
    requests = [
        request(str(index), prompt, every[composition], start, **sampling)
        for index, (prompt, composition, start, sampling) in enumerate(load)
    ]
    compare(
        real,
        requests,
        num_draft_tokens=num_draft_tokens,
        page_size=page_size,
        max_model_len=64,
        num_pages=-(-(64 + spare) // page_size),
        max_num_batched_tokens=budget,
    )

"""How requests end, and what their outputs hold: on a tiny real model."""

from typing import Any

import pytest
import torch
from engines import MakeEngine, RealEngine, fake_engine, request, run_to_end
from tiny_models import LONGROPE_BOUNDARY
from transformers import AutoModelForCausalLM

from server.engine.config import EngineConfig
from server.engine.engine import Engine, SequenceOutput
from server.engine.errors import StepFailed
from server.engine.runner import EntryResult
from server.engine.scheduler import ScheduledBatch
from server.engine.sequence import FinishReason

PROMPT = [20, 21, 22, 23, 24, 25, 26]


@pytest.fixture
def real(tiny_engine: MakeEngine) -> RealEngine:
    return tiny_engine("phi3-mini")


def continuation(real: RealEngine, count: int) -> list[int]:
    engine, _ = real.engine()
    wanted = request("r", PROMPT, max_tokens=count, ignore_eos=True)
    return run_to_end(engine, [wanted]).tokens("r")


def last_of(real: RealEngine, **fields: Any) -> tuple[list[int], SequenceOutput]:
    engine, _ = real.engine()
    collected = run_to_end(engine, [request("r", PROMPT, **{"max_tokens": 6, **fields})])
    return collected.tokens("r"), collected.last("r")


def test_stop_token_ends_a_request_and_is_named(real: RealEngine) -> None:
    made = continuation(real, 6)
    tokens, last = last_of(real, stop_token_ids=frozenset({made[2]}))
    assert tokens == made[: made.index(made[2]) + 1]
    assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, made[2])


def test_end_token_ends_a_request_unless_ignored(real: RealEngine) -> None:
    made = continuation(real, 6)
    engine = Engine(
        real.engine()[0].config, real.engine()[1], lambda ids, skip: "", frozenset({made[1]})
    )
    ended = run_to_end(engine, [request("r", PROMPT, max_tokens=6)])
    assert ended.tokens("r") == made[: made.index(made[1]) + 1]
    assert ended.last("r").stop_reason is None
    ignored = run_to_end(engine, [request("r", PROMPT, max_tokens=6, ignore_eos=True)])
    assert ignored.tokens("r") == made


def test_stop_string_ends_a_request_and_is_cut(real: RealEngine) -> None:
    engine, _ = real.engine()
    text = run_to_end(engine, [request("r", PROMPT, max_tokens=12, ignore_eos=True)]).text("r")
    stop = text[4:6]
    collected = run_to_end(
        engine, [request("s", PROMPT, max_tokens=12, ignore_eos=True, stop=(stop,))]
    )
    assert collected.text("s") == text[: text.index(stop)]
    assert collected.last("s").stop_reason == stop


def test_length_ends_a_request_at_max_tokens_and_at_the_context(real: RealEngine) -> None:
    tokens, last = last_of(real, max_tokens=3, ignore_eos=True)
    assert (len(tokens), last.finish_reason) == (3, FinishReason.LENGTH)
    engine, _ = real.engine(max_model_len=len(PROMPT) + 2)
    collected = run_to_end(engine, [request("r", PROMPT, max_tokens=50, ignore_eos=True)])
    assert len(collected.tokens("r")) == 2


def test_prompt_only_request_ends_without_a_token(real: RealEngine) -> None:
    tokens, last = last_of(real, max_tokens=0, prompt_logprobs=0)
    assert tokens == []
    assert last.finish_reason is FinishReason.LENGTH
    assert [entry.token_id for entry in last.prompt_logprobs] == PROMPT[1:]


@pytest.mark.parametrize("budget", [3, 512])
def test_prompt_logprobs_are_those_of_transformers(real: RealEngine, budget: int) -> None:
    engine, _ = real.engine(max_num_batched_tokens=budget)
    run_to_end(engine, [request("warm", PROMPT, max_tokens=1)])
    collected = run_to_end(engine, [request("r", PROMPT, max_tokens=2, prompt_logprobs=3)])
    first, second = collected.outputs["r"]
    assert second.prompt_logprobs == ()
    model = AutoModelForCausalLM.from_pretrained(real.checkpoint.directory, dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([PROMPT])).logits[0], -1)
    assert len(first.prompt_logprobs) == len(PROMPT) - 1
    for position, entry in enumerate(first.prompt_logprobs):
        row = expected[position]
        assert entry.token_id == PROMPT[position + 1]
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-4)
        assert [token for token, _ in entry.top] == torch.topk(row, 3).indices.tolist()


@pytest.mark.parametrize("variation", ["phi3.5-mini", "phi4-mini"])
@pytest.mark.parametrize("length", [5, LONGROPE_BOUNDARY - 1, LONGROPE_BOUNDARY])
def test_text_that_outgrows_the_short_rope_is_that_of_its_own_length(
    tiny_engine: MakeEngine, variation: str, length: int
) -> None:
    """At every step: the logits of transformers' forward over the whole sequence so far."""
    real = tiny_engine(variation)
    prompt = [(i * 7) % 300 + 5 for i in range(length)]
    engine, runner = real.engine(max_num_batched_tokens=16)
    wanted = request("r", prompt, max_tokens=LONGROPE_BOUNDARY - length + 5, ignore_eos=True)
    beside = request("beside", prompt[:3], max_tokens=40, ignore_eos=True)
    tokens = [*prompt, *run_to_end(engine, [wanted, beside]).tokens("r")]
    assert len(tokens) > LONGROPE_BOUNDARY + 4
    model = AutoModelForCausalLM.from_pretrained(real.checkpoint.directory, dtype=torch.float32)
    for end in range(length, len(tokens)):
        with torch.inference_mode():
            expected = model(torch.tensor([tokens[:end]])).logits[0, -1]
        row = runner.recorded["r", end - 1]
        torch.testing.assert_close(row, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


class BrokenRunner:
    """Fails while a request named "bad" is in the batch."""

    def run(self, batch: ScheduledBatch) -> list[EntryResult]:
        if any(entry.sequence.request_id == "bad" for entry in batch.entries):
            raise RuntimeError("out of memory")
        return [EntryResult() for _ in batch.entries]


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on() -> None:
    config = EngineConfig(max_model_len=16, num_pages=8, page_size=4)
    engine = Engine(config, BrokenRunner(), lambda ids, skip: "", frozenset())
    collected = run_to_end(engine, [request("bad", [1, 2])])
    last = collected.last("bad")
    assert last.finish_reason is FinishReason.ERROR
    assert isinstance(last.error, StepFailed)
    assert engine.scheduler.blocks.num_held == 0
    after = run_to_end(engine, [request("good", [1, 2], max_tokens=0)])
    assert after.last("good").finish_reason is FinishReason.LENGTH


def test_ends_are_counted_by_reason() -> None:
    engine, _ = fake_engine(EngineConfig(max_model_len=16, num_pages=8, page_size=4))
    run_to_end(engine, [request("a", [1], max_tokens=2), request("b", [1], max_tokens=1)])
    engine.add(request("c", [1]))
    engine.abort("c")
    assert engine.stats().finished == {"stop": 0, "length": 2, "abort": 1, "error": 0}
    assert engine.stats().generation_tokens == 3

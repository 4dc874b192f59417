"""How requests end, and what their outputs hold: on a tiny real model."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engines import (
    FakeRunner,
    MakeEngine,
    RealEngine,
    expected_tokens,
    fake_engine,
    request,
    run_to_end,
    spell,
)
from tiny_models import LONGROPE_BOUNDARY
from torch import Tensor
from transformers import AutoModelForCausalLM

from server.engine.batch import LogitRow
from server.engine.config import EngineConfig
from server.engine.detokenizer import Decode
from server.engine.engine import Engine, SequenceOutput
from server.engine.errors import StepFailed
from server.engine.runner import EntryResult
from server.engine.scheduled import ScheduledBatch
from server.engine.sequence import FinishReason
from server.kernels.stacked import Meanwhile
from server.model.step import Step

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


def test_stop_string_before_min_tokens_neither_ends_nor_cuts() -> None:
    engine, _ = fake_engine(EngineConfig(max_model_len=64, num_pages=16, page_size=4))
    text = run_to_end(engine, [request("r", [7], max_tokens=30)]).text("r")
    stop = next(c for c in text if c in text[1:] and text.index(c) < 4 < text.rindex(c))
    end = next(at for at in range(5, 30) if text[at] == stop)
    wanted = request("s", [7], max_tokens=30, min_tokens=6, stop=(stop,))
    collected = run_to_end(engine, [wanted])
    assert collected.text("s") == text[:end]
    assert collected.last("s").stop_reason == stop
    assert len(collected.tokens("s")) == end + 1


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

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
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


def test_row_that_cannot_be_sampled_ends_its_own_request_only(real: RealEngine) -> None:
    engine, runner = real.engine()
    compute = runner._logits

    def spoil(hidden: Tensor, step: Step, rows: Sequence[LogitRow]) -> Tensor:
        logits = compute(hidden, step, rows)
        bad = [row.entry.sequence.request_id == "bad" for row in rows]
        return logits.masked_fill(torch.tensor(bad)[:, None], torch.nan)

    runner._logits = spoil  # type: ignore[method-assign]
    wanted: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True}
    requests = [request(name, PROMPT, **wanted) for name in ("before", "bad", "after")]
    requests.append(request("bad", PROMPT, prompt_logprobs=0, **wanted))
    for scored in (requests[:3], requests[3:]):
        collected = run_to_end(engine, scored)
        assert collected.last("bad").finish_reason is FinishReason.ERROR
        assert isinstance(collected.last("bad").error, StepFailed)
        assert "not finite" in str(collected.last("bad").error)
        for name in collected.outputs.keys() - {"bad"}:
            assert collected.tokens(name) == continuation(real, 4)


class Unreadable(Exception):
    """What a decoder raises that cannot read a token."""


def cannot_read(*unreadable: int) -> Decode:
    def decode(token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        if set(unreadable) & set(token_ids):
            raise Unreadable
        return spell(token_ids)

    return decode


def test_text_that_cannot_be_read_ends_its_own_request_only() -> None:
    config = EngineConfig(max_model_len=32, num_pages=32, page_size=4)
    third = expected_tokens([7], 3)[2]
    assert third not in expected_tokens([9], 5)
    engine = Engine(config, FakeRunner(4), cannot_read(third), frozenset())
    collected = run_to_end(engine, [request("bad", [7]), request("good", [9], max_tokens=5)])
    assert collected.last("bad").finish_reason is FinishReason.ERROR
    assert len(collected.outputs["bad"]) == 3
    assert collected.tokens("good") == expected_tokens([9], 5)
    assert engine.scheduler.blocks.num_held == 0


def test_prompt_that_cannot_be_read_is_refused_and_keeps_nothing() -> None:
    config = EngineConfig(max_model_len=16, num_pages=8, page_size=4)
    engine = Engine(config, FakeRunner(4), cannot_read(5), frozenset())
    with pytest.raises(Unreadable):
        engine.add(request("r", [5]))
    assert not engine.has_work
    engine.check_integrity()


@pytest.mark.parametrize("length", [0, 17])
def test_prompt_that_can_never_run_is_our_mistake(length: int) -> None:
    engine, _ = fake_engine(EngineConfig(max_model_len=16, num_pages=8, page_size=4))
    with pytest.raises(AssertionError, match=f"a prompt of {length} tokens"):
        engine.add(request("r", range(length)))


def test_broken_bytes_that_end_a_prompt_are_no_answer() -> None:
    config = EngineConfig(max_model_len=16, num_pages=8, page_size=4)
    engine = Engine(config, FakeRunner(4), lambda ids, skip: "\ufffd" * len(ids), frozenset())
    engine.add(request("aborted", [1]))
    output = engine.abort("aborted")
    assert output is not None
    assert output.text == ""
    assert run_to_end(engine, [request("r", [1], max_tokens=0)]).text("r") == ""


def test_ends_are_counted_by_reason() -> None:
    engine, _ = fake_engine(EngineConfig(max_model_len=16, num_pages=8, page_size=4))
    run_to_end(engine, [request("a", [1], max_tokens=2), request("b", [1], max_tokens=1)])
    engine.add(request("c", [1]))
    engine.abort("c")
    assert engine.stats().finished == {"stop": 0, "length": 2, "abort": 1, "error": 0}
    assert engine.stats().generation_tokens == 3

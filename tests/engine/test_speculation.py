"""Drafts change how many steps an answer takes: no token, nobody's share, no page, no key."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import pytest
from engines import Collected, FakeRunner, Following, expected_tokens, fake_engine, request
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.page_keys import extend_keys
from server.engine.sequence import FinishReason, GenerationRequest, Sequence


def config(**sizes: int) -> EngineConfig:
    defaults = {"max_model_len": 64, "num_pages": 64, "page_size": 4, "num_draft_tokens": 4}
    return EngineConfig(**{**defaults, **sizes})  # type: ignore[arg-type]


def in_circles(tokens: Seq[int]) -> int:
    """Repeats its last three tokens for ever: every guess is right."""
    return tokens[-3]


def never_again(tokens: Seq[int]) -> int:
    """Repeats two tokens, and goes on as never before: every guess is wrong."""
    return [1, 2, 100 + len(tokens)][len(tokens) % 3]


def now_and_then(tokens: Seq[int]) -> int:
    """Repeats its last three tokens, but not always."""
    return (sum(tokens) * 31) % 7 if (sum(tokens) + len(tokens)) % 5 == 0 else tokens[-3]


def run(
    engine: Engine, requests: Seq[GenerationRequest], collected: Collected | None = None
) -> Collected:
    collected = collected or Collected()
    for one in requests:
        engine.add(one)
    for _ in range(2000):
        if not engine.has_work:
            return collected
        collected.add(engine.step())
        check(engine)
    raise AssertionError("no progress")


def check(engine: Engine) -> None:
    """Pages agree, and each sequence holds what its tokens need: what was wrong left nothing."""
    engine.check_integrity()
    blocks = engine.scheduler.blocks
    for sequence in engine.scheduler.running:
        assert len(sequence.pages) == blocks.pages_for(sequence.num_computed)
        assert sequence.num_computed < len(sequence.tokens)


def drafts_of(runner: FakeRunner) -> list[int]:
    """How many drafts each step had."""
    return [sum(len(entry.drafts) for entry in batch.entries) for batch in runner.batches]


def test_an_answer_that_repeats_itself_takes_few_steps() -> None:
    engine, runner = fake_engine(config(), in_circles)
    collected = run(engine, [request("a", [1, 2, 3] * 3, max_tokens=50)])
    assert collected.tokens("a") == expected_tokens([1, 2, 3] * 3, 50, in_circles)
    assert len(runner.batches) < 16
    stats = engine.stats()
    assert stats.draft_tokens == stats.accepted_tokens == 50 - len(runner.batches)
    assert stats.generation_tokens == 50


def test_wrong_guesses_cost_no_more_steps_and_few_drafts() -> None:
    engine, runner = fake_engine(config(), never_again)
    collected = run(engine, [request("a", [0] * 6, max_tokens=58)])
    assert collected.tokens("a") == expected_tokens([0] * 6, 58, never_again)
    assert len(runner.batches) == 58
    stats = engine.stats()
    assert 0 < stats.draft_tokens < 20
    assert stats.accepted_tokens == 0


def test_without_speculation_nothing_is_drafted() -> None:
    engine, runner = fake_engine(config(num_draft_tokens=0), in_circles)
    run(engine, [request("a", [1, 2, 3] * 3, max_tokens=20)])
    assert len(runner.batches) == 20
    assert sum(drafts_of(runner)) == engine.stats().draft_tokens == 0


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 55])
def test_no_draft_is_computed_whose_next_token_nobody_would_read(max_tokens: int) -> None:
    engine, runner = fake_engine(config(), in_circles)
    run(engine, [request("a", [1, 2, 3] * 3, max_tokens=max_tokens)])
    ends = [entry.end for batch in runner.batches for entry in batch.entries]
    assert max(ends) == min(9 + max_tokens, 64) - 1


@pytest.mark.parametrize(("num_requests", "most"), [(1, 4), (3, 4), (4, 4), (5, 25)])
def test_a_step_of_few_tokens_stays_one_of_few(num_requests: int, most: int) -> None:
    """Since one more would make it much longer."""
    engine, runner = fake_engine(config(max_model_len=200, num_pages=400), in_circles)
    run(engine, [request(str(i), [1, 2, 3] * 3, max_tokens=60) for i in range(num_requests)])
    _, *decoding = [batch for batch in runner.batches if len(batch.entries) == num_requests]
    assert max(batch.num_tokens for batch in decoding) == most


def test_drafts_take_no_tokens_from_others() -> None:
    sizes = {"max_num_batched_tokens": 3, "num_draft_tokens": 4}
    engine, runner = fake_engine(config(**sizes), in_circles)
    run(engine, [request(str(i), [1, 2, 3] * 2, max_tokens=9) for i in range(3)])
    assert max(batch.num_tokens for batch in runner.batches) == 3
    for batch, drafts in zip(runner.batches, drafts_of(runner), strict=True):
        assert drafts == 0 or len(batch.entries) < 3


def test_scored_prompts_and_chunks_of_prompts_have_no_drafts() -> None:
    engine, runner = fake_engine(config(max_num_batched_tokens=5), in_circles)
    run(engine, [request("a", [1, 2, 3] * 5, max_tokens=0), request("b", [5] * 12, max_tokens=1)])
    assert sum(drafts_of(runner)) == 0


def test_only_live_requests_have_drafts() -> None:
    engine, runner = fake_engine(config(), in_circles)
    one = request("a", [1, 2, 3] * 3, max_tokens=20)
    behind = GenerationRequest("b", one.prompt_token_ids, one.sampling, priority=1)
    run(engine, [behind])
    assert sum(drafts_of(runner)) == 0


def test_drafts_stay_in_the_rope_regime_of_their_sequence() -> None:
    engine, runner = fake_engine(config(rope_boundary=20), in_circles)
    collected = run(engine, [request("a", [1, 2, 3] * 3, max_tokens=40)])
    assert collected.tokens("a") == expected_tokens([1, 2, 3] * 3, 40, in_circles)
    entries = [entry for batch in runner.batches for entry in batch.entries]
    assert all(e.known_end > 20 or e.end <= 20 for e in entries)
    assert any(e.end == 20 and e.drafts for e in entries)


def test_nothing_after_the_end_is_shown() -> None:
    engine, _ = fake_engine(config(), in_circles)
    circle = [1, 2, 3] * 3  # spelt b, c, d
    collected = run(
        engine,
        [
            request("string", circle, max_tokens=40, stop=("dbcdb",)),
            request("token", circle, max_tokens=40, stop_token_ids=frozenset({3}), min_tokens=10),
            request("early", circle, max_tokens=40, stop=("bc",), min_tokens=17),
        ],
    )
    assert collected.text("string") == "bc"
    assert collected.tokens("string") == [1, 2, 3, 1, 2, 3, 1]
    assert collected.last("string").stop_reason == "dbcdb"
    assert collected.last("token").stop_reason == 3
    assert collected.text("early") == "bcd" * 5
    shown = sum(len(collected.tokens(name)) for name in collected.outputs)
    assert engine.stats().generation_tokens == shown


def keys_of(engine: Engine, one: GenerationRequest, tokens: Seq[int]) -> set[bytes]:
    """Keys of all full pages of a request that was computed up to before its last token."""
    sequence = Sequence(one, [*one.prompt_token_ids, *tokens])
    size, numerics = engine.config.page_size, f"{engine.config.numerics};mode=batched;rope=0"
    extend_keys(sequence, (len(sequence.tokens) - 1) // size, size, numerics)
    return set(sequence.page_keys)


@pytest.mark.parametrize("following", [in_circles, never_again, now_and_then])
def test_known_pages_are_those_that_are_known_without_drafts(following: Following) -> None:
    """So none with a wrong draft, and none less."""
    engine, _ = fake_engine(config(num_pages=400), following)
    requests = [request(str(i), [i, 2, 3] * 4, max_tokens=11 + i) for i in range(12)]
    collected = run(engine, requests)
    computed = [keys_of(engine, one, collected.tokens(one.request_id)) for one in requests]
    assert set(engine.scheduler.blocks._page_of) == set().union(*computed)


def test_drafts_preempt_nobody() -> None:
    """Beside a full cache, in as many pages as are free."""
    stats = {}
    for num_draft_tokens in (0, 4):
        sizes = {"num_pages": 16, "max_num_seqs": 2, "num_draft_tokens": num_draft_tokens}
        engine, runner = fake_engine(config(**sizes), never_again)
        run(engine, [request(str(i), [i] * 20, max_tokens=11) for i in range(2)])
        stats[num_draft_tokens] = engine.stats().preemptions
        assert num_draft_tokens == 0 or sum(drafts_of(runner)) > 0
    assert stats == {0: 0, 4: 0}


@dataclass(frozen=True)
class Plan:
    """A request with the steps at which it comes and is aborted."""

    one: GenerationRequest
    arrives: int
    aborted: int | None


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    made = []
    for index in range(draw(st.integers(1, 8))):
        length, count = draw(st.integers(3, 24)), draw(st.integers(0, 26))
        prompt = [draw(st.integers(0, 2)) for _ in range(3)] * 8
        stop = draw(st.sampled_from([(), (), ("ab",), ("bca", "cc")]))
        one = request(
            str(index), prompt[:length], max_tokens=count, stop=stop, min_tokens=min(count, 6)
        )
        aborted = draw(st.one_of(st.none(), st.none(), st.integers(0, 25)))
        made.append(Plan(one, draw(st.integers(0, 12)), aborted))
    return made


def follow(engine: Engine, plans: Seq[Plan]) -> Collected:
    collected, step = Collected(), 0
    while engine.has_work or any(plan.arrives >= step for plan in plans):
        for plan in plans:
            if plan.arrives == step:
                engine.add(plan.one)
            if plan.aborted == step and (output := engine.abort(plan.one.request_id)):
                collected.add([output])
        if engine.has_work:
            collected.add(engine.step())
        check(engine)
        step += 1
        assert step < 2000, "no progress"
    return collected


@settings(max_examples=120, deadline=None)
@given(
    plans=plans(),
    num_pages=st.integers(13, 40),
    page_size=st.sampled_from([1, 4, 5]),
    budget=st.integers(1, 40),
    num_draft_tokens=st.integers(1, 9),
    following=st.sampled_from([in_circles, never_again, now_and_then]),
)
def test_every_answer_is_what_it_is_without_drafts(
    plans: list[Plan],
    num_pages: int,
    page_size: int,
    budget: int,
    num_draft_tokens: int,
    following: Following,
) -> None:
    sizes = {
        "max_model_len": 50,
        "num_pages": num_pages * 4 // page_size,
        "page_size": page_size,
        "max_num_batched_tokens": budget,
    }
    engine, _ = fake_engine(config(**sizes, num_draft_tokens=num_draft_tokens), following)
    collected = follow(engine, plans)
    assert engine.scheduler.blocks.num_held == 0
    for plan in plans:
        plain, _ = fake_engine(config(**sizes, num_draft_tokens=0), following)
        alone, name = run(plain, [plan.one]), plan.one.request_id
        last, made = collected.last(name), collected.tokens(name)
        if last.finish_reason is FinishReason.ABORT:
            assert made == alone.tokens(name)[: len(made)]
        else:
            assert made == alone.tokens(name)
            assert collected.text(name) == alone.text(name)
            assert last.finish_reason is alone.last(name).finish_reason
            assert last.stop_reason == alone.last(name).stop_reason

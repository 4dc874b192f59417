"""Who runs when: budgets, order, preemption, admission. A fake runner stands for the model."""

import pytest
from engines import Collected, expected_tokens, fake_engine, request, run_to_end
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.config import EngineConfig
from server.engine.errors import QueueFull
from server.engine.sequence import FinishReason


def config(**sizes: int) -> EngineConfig:
    return EngineConfig(**{"max_model_len": 64, "num_pages": 64, "page_size": 4, **sizes})  # type: ignore[arg-type]


def test_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    engine, runner = fake_engine(config(max_num_batched_tokens=5))
    collected = run_to_end(engine, [request("a", range(12), max_tokens=2)])
    assert [batch.num_tokens for batch in runner.batches] == [5, 5, 2, 1]
    assert collected.tokens("a") == expected_tokens(range(12), 2)


def test_running_sequences_go_on_while_a_long_prompt_is_computed() -> None:
    engine, runner = fake_engine(config(max_num_batched_tokens=5))
    engine.add(request("short", [1, 2], max_tokens=10))
    engine.step()
    engine.add(request("long", range(20), max_tokens=1))
    engine.step()
    shares = {e.sequence.request_id: e.num_tokens for e in runner.batches[-1].entries}
    assert shares == {"short": 1, "long": 4}


def test_no_more_sequences_run_than_seats() -> None:
    engine, runner = fake_engine(config(max_num_seqs=2))
    run_to_end(engine, [request(str(i), [i + 1], max_tokens=3) for i in range(5)])
    assert max(len(batch.entries) for batch in runner.batches) == 2


def test_waiting_requests_are_admitted_in_order() -> None:
    engine, runner = fake_engine(config(max_num_seqs=1))
    run_to_end(engine, [request(name, [7], max_tokens=1) for name in "abc"])
    assert [b.entries[0].sequence.request_id for b in runner.batches] == ["a", "b", "c"]


def test_queue_full_keeps_nothing() -> None:
    engine, _ = fake_engine(config(max_queued_requests=1))
    engine.add(request("a", [1]))
    with pytest.raises(QueueFull, match="1 requests are waiting"):
        engine.add(request("b", [1]))
    engine.check_integrity()
    assert run_to_end(engine).outputs.keys() == {"a"}


def test_preempted_sequence_resumes_with_same_tokens() -> None:
    engine, _ = fake_engine(config(num_pages=16))
    requests = [request(str(i), [i + 1] * 8, max_tokens=40, ignore_eos=True) for i in range(3)]
    collected = run_to_end(engine, requests)
    assert engine.stats().preemptions > 0
    for i in range(3):
        assert collected.tokens(str(i)) == expected_tokens([i + 1] * 8, 40)


def test_the_latest_arrival_is_preempted_first() -> None:
    engine, _ = fake_engine(config(num_pages=16))
    for name in "ab":
        engine.add(request(name, [ord(name)] * 20, max_tokens=40))
    while engine.stats().preemptions == 0:
        engine.step()
    assert [s.request_id for s in engine.scheduler.running] == ["a"]
    assert [s.request_id for s in engine.scheduler.waiting] == ["b"]


def test_a_prompt_waits_until_all_of_it_fits() -> None:
    engine, _ = fake_engine(config(num_pages=16, max_num_batched_tokens=64))
    engine.add(request("big", range(40), max_tokens=8))
    engine.step()
    engine.add(request("next", range(100, 130), max_tokens=1))
    engine.step()
    assert [s.request_id for s in engine.scheduler.waiting] == ["next"]
    run_to_end(engine)
    assert engine.stats().preemptions == 0


def test_one_sequence_may_fill_the_whole_cache() -> None:
    engine, _ = fake_engine(config(num_pages=16, max_model_len=64))
    collected = run_to_end(engine, [request("a", range(10), max_tokens=54)])
    assert collected.tokens("a") == expected_tokens(range(10), 54)
    assert collected.last("a").finish_reason is FinishReason.LENGTH


def test_common_prefix_is_computed_once() -> None:
    engine, runner = fake_engine(config())
    prompt = list(range(18))
    run_to_end(engine, [request("a", prompt, max_tokens=1)])
    collected = run_to_end(engine, [request("b", [*prompt, 50], max_tokens=1)])
    assert runner.batches[-1].num_tokens == 3  # 19 tokens, 16 of them in 4 known pages
    assert collected.last("b").num_cached == 16
    assert collected.tokens("b") == expected_tokens([*prompt, 50], 1)
    assert engine.stats().prefix_hits == 16


def test_a_wholly_known_prompt_still_computes_its_last_token() -> None:
    engine, _ = fake_engine(config())
    for name in "ab":
        collected = run_to_end(engine, [request(name, range(16), max_tokens=2)])
    assert collected.last("b").num_cached == 12
    assert collected.tokens("b") == expected_tokens(range(16), 2)


def test_page_that_was_begun_is_never_found() -> None:
    engine, _ = fake_engine(config(max_num_batched_tokens=5))
    engine.add(request("a", range(12)))
    engine.step()
    engine.abort("a")
    collected = run_to_end(engine, [request("b", range(12), max_tokens=2)])
    assert collected.last("b").num_cached == 4
    assert collected.tokens("b") == expected_tokens(range(12), 2)


def test_own_pages_found_after_preemption_are_no_cached_prompt() -> None:
    engine, _ = fake_engine(config(num_pages=16, max_num_batched_tokens=8))
    engine.add(request("first", range(8), max_tokens=27))
    engine.step()
    while engine.scheduler.blocks.num_free > 8:
        engine.step()
    engine.add(request("second", range(50, 82), max_tokens=2))
    collected = run_to_end(engine)
    assert engine.stats().preemptions > 0
    assert collected.last("second").num_cached == 0
    assert engine.stats().prompt_tokens == engine.stats().prefix_queries == 40
    assert engine.stats().prefix_hits == 0


def test_generated_pages_are_found_by_the_next_turn() -> None:
    engine, _ = fake_engine(config())
    first = run_to_end(engine, [request("a", range(8), max_tokens=9)]).tokens("a")
    second = run_to_end(engine, [request("b", [*range(8), *first, 3], max_tokens=1)])
    assert second.last("b").num_cached == 16


def test_other_tenants_share_nothing() -> None:
    engine, _ = fake_engine(config())
    run_to_end(engine, [request("a", range(16), max_tokens=1, cache_salt="one")])
    collected = run_to_end(engine, [request("b", range(16), max_tokens=1, cache_salt="two")])
    assert collected.last("b").num_cached == 0


def test_abort_frees_pages_at_once_wherever_the_request_is() -> None:
    engine, _ = fake_engine(config(max_num_seqs=1, max_num_batched_tokens=4))
    engine.add(request("running", range(20)))
    engine.add(request("waiting", range(20)))
    engine.step()
    for name in ("running", "waiting"):
        output = engine.abort(name)
        assert output is not None
        assert output.finish_reason is FinishReason.ABORT
        engine.check_integrity()
    assert engine.scheduler.blocks.num_held == 0
    assert engine.abort("running") is None
    assert not engine.has_work


plans = st.lists(
    st.tuples(
        st.integers(1, 30),  # prompt tokens
        st.integers(0, 20),  # tokens to generate
        st.integers(0, 12),  # step at which it arrives
        st.one_of(st.none(), st.integers(0, 25)),  # step at which it is aborted
        st.integers(1, 3),  # what its prompt begins with: some share prefixes
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(
    plan=plans, num_pages=st.integers(13, 40), budget=st.integers(1, 40), seats=st.integers(1, 6)
)
def test_every_request_ends_once_with_its_own_tokens(
    plan: list[tuple[int, int, int, int | None, int]], num_pages: int, budget: int, seats: int
) -> None:
    sizes = {"max_model_len": 50, "num_pages": num_pages}
    engine, _ = fake_engine(config(**sizes, max_num_batched_tokens=budget, max_num_seqs=seats))
    collected, step = Collected(), 0
    while engine.has_work or any(arrives >= step for _, _, arrives, _, _ in plan):
        for index, (length, count, arrives, aborted, start) in enumerate(plan):
            if arrives == step:
                prompt = range(start, start + length)
                engine.add(request(str(index), prompt, max_tokens=count))
            if aborted == step and (output := engine.abort(str(index))) is not None:
                collected.add([output])
        if engine.has_work:
            collected.add(engine.step())
        engine.check_integrity()
        step += 1
        assert step < 2000, "no progress"
    assert engine.scheduler.blocks.num_held == 0
    for index, (length, count, _, aborted, start) in enumerate(plan):
        tokens = expected_tokens(range(start, start + length), count)
        last = collected.last(str(index))
        assert last.finish_reason in (FinishReason.LENGTH, FinishReason.ABORT)
        made = collected.tokens(str(index))
        assert made == (
            tokens if last.finish_reason is FinishReason.LENGTH else tokens[: len(made)]
        )
        assert aborted is not None or last.finish_reason is FinishReason.LENGTH

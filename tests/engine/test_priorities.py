"""The less urgent delay the urgent by nothing but the step in work, and get all that is left."""

from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest
from engines import Collected, expected_tokens, fake_engine, request, run_to_end
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.config import EngineConfig
from server.engine.errors import QueueFull
from server.engine.pace import ALONE_S, LEAST, PROMPTS_S, SLOWDOWN, TILE, Pace
from server.engine.sequence import GenerationRequest

Chunk = tuple[str, int, int]  # request, first token, tokens


def config(**sizes: int) -> EngineConfig:
    return EngineConfig(**{"max_model_len": 64, "num_pages": 64, "page_size": 4, **sizes})  # type: ignore[arg-type]


def background(request_id: str, prompt: Seq[int], max_tokens: int = 8) -> GenerationRequest:
    return replace(request(request_id, prompt, max_tokens=max_tokens), priority=1)


@st.composite
def visits(draw: st.DrawFn, name: str, priority: int) -> list[tuple[int, GenerationRequest]]:
    """(step of arrival, request); no two share pages."""
    made = []
    for index in range(draw(st.integers(1, 6))):
        prompt = range(draw(st.integers(1, 30)))
        salt = f"{name}{index}"
        one = request(salt, prompt, cache_salt=salt, max_tokens=draw(st.integers(1, 12)))
        made.append((draw(st.integers(0, 20)), replace(one, priority=priority)))
    return made


def steps_of(
    sizes: EngineConfig, arriving: Seq[tuple[int, GenerationRequest]]
) -> tuple[list[list[Chunk]], Collected]:
    """What every step computes."""
    engine, runner = fake_engine(sizes)
    collected = Collected()
    steps: list[list[Chunk]] = []
    while engine.has_work or len(steps) <= 20:
        for at, one in arriving:
            if at == len(steps):
                engine.add(one)
        runner.batches.clear()
        if engine.has_work:
            collected.add(engine.step())
        engine.check_integrity()
        entries = [entry for batch in runner.batches for entry in batch.entries]
        steps.append([(e.sequence.request_id, e.start, e.num_tokens) for e in entries])
        assert len(steps) < 2000, "no progress"
    return steps, collected


@settings(max_examples=150)
@given(
    visits("live", 0), visits("late", 1), visits("last", 2), st.integers(1, 4), st.integers(1, 40)
)
def test_live_requests_are_computed_as_if_nothing_else_was_there(
    live: list[tuple[int, GenerationRequest]],
    late: list[tuple[int, GenerationRequest]],
    last: list[tuple[int, GenerationRequest]],
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> None:
    # Pages for as many live sequences as have a seat, so that none of them is preempted.
    sizes = config(
        max_num_seqs=max_num_seqs,
        num_pages=16 * max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    alone, _ = steps_of(sizes, live)
    beside, collected = steps_of(sizes, [*last, *late, *live])
    of_live = [[chunk for chunk in step if chunk[0].startswith("live")] for step in beside]
    assert of_live[: len(alone)] == alone
    assert not any(of_live[len(alone) :])
    for _, one in [*live, *late, *last]:
        expected = expected_tokens(one.prompt_token_ids, one.sampling.max_tokens)
        assert collected.tokens(one.request_id) == expected


def test_a_live_request_takes_the_seat_and_the_pages_of_a_less_urgent_one() -> None:
    for sizes in ({"max_num_seqs": 1}, {"num_pages": 16}):
        engine, runner = fake_engine(config(max_num_batched_tokens=64, **sizes))
        engine.add(background("late", range(40), max_tokens=20))
        engine.step()
        engine.add(request("live", range(100, 140), max_tokens=2))
        engine.step()
        assert [e.sequence.request_id for e in runner.batches[-1].entries] == ["live"]
        collected = run_to_end(engine)
        assert collected.tokens("late")[-1] == expected_tokens(range(40), 20)[-1]


def test_no_less_urgent_request_is_admitted_while_a_live_one_waits() -> None:
    engine, _ = fake_engine(config(max_num_seqs=2, num_pages=16))
    engine.add(request("big", range(50), max_tokens=8))
    engine.step()
    engine.add(background("late", [1], max_tokens=1))
    engine.add(request("wide", range(100, 140), max_tokens=1))
    while engine.stats().num_running and len(engine.scheduler.waiting) == 2:
        engine.step()
        running = [s.request_id for s in engine.scheduler.running]
        assert running in (["big"], ["wide"], ["wide", "late"], [])


def known_pace(fixed_s: float, token_s: float, lengths: Seq[int] = range(1, 40)) -> Pace:
    """After steps of these lengths on a machine of this kind, over and over."""
    pace = Pace()
    for _ in range(5):
        for num_tokens in lengths:
            pace.note(num_tokens, fixed_s + token_s * num_tokens)
    return pace


def test_a_step_with_live_requests_has_little_room_for_the_others() -> None:
    engine, runner = fake_engine(config(max_num_batched_tokens=32))
    engine.add(request("live", [1, 2], max_tokens=30))
    engine.add(background("late", range(50), max_tokens=1))
    engine.scheduler.pace = known_pace(fixed_s=0.04, token_s=0.002)
    engine.step()
    shares = {e.sequence.request_id: e.num_tokens for e in runner.batches[-1].entries}
    assert shares.keys() == {"live", "late"}
    assert shares["live"] == 2
    assert 1 <= shares["late"] <= SLOWDOWN * 0.044 / 0.002
    engine.abort("live")
    engine.scheduler.pace = known_pace(fixed_s=0.0, token_s=ALONE_S / 20.5)
    engine.step()
    assert [e.num_tokens for e in runner.batches[-1].entries] == [20]


@pytest.mark.parametrize("before", [Pace(), known_pace(0.0, 0.0), known_pace(0.1, -0.001)])
def test_where_tokens_cost_nothing_there_is_room_for_all(before: Pace) -> None:
    assert min(before.room(0), before.room(3)) > 10**6


@given(st.floats(0.001, 0.2), st.floats(1e-5, 0.01), st.integers(1, 64))
def test_the_less_urgent_make_steps_longer_by_a_quarter_once_the_machine_is_known(
    fixed_s: float, token_s: float, live: int
) -> None:
    """Whatever the machine: it is learned from the steps that were made by what was known."""
    pace, extra = Pace(), 0
    for _ in range(200):
        extra = min(512, pace.room(live))
        pace.note(live + extra, fixed_s + token_s * (live + extra))
    alone = fixed_s + token_s * live
    assert extra == 1 or token_s * extra <= SLOWDOWN * alone * 1.05


@given(st.floats(0.001, 0.75 * ALONE_S), st.floats(1e-5, 0.01))
def test_a_step_of_the_less_urgent_alone_ends_soon(fixed_s: float, token_s: float) -> None:
    pace, extra = Pace(), 0
    for _ in range(200):
        extra = min(512, pace.room(0))
        pace.note(extra, fixed_s + token_s * extra)
    assert extra == LEAST or fixed_s + token_s * extra <= ALONE_S * 1.05


def test_single_tokens_for_long_leave_room_for_more_than_single_ones() -> None:
    pace = known_pace(fixed_s=0.0, token_s=0.3, lengths=[1] * 300)
    assert pace.room(0) == pace.prompt_room(1, 1) == LEAST


def test_a_step_that_was_held_up_is_forgotten_soon() -> None:
    """The machine stood still for a minute in the middle of a long step."""
    pace = known_pace(fixed_s=0.02, token_s=0.001)
    before = pace.prompt_room(1, 1)
    pace.note(512, 60.0)
    for _ in range(20):
        pace.note(1 + pace.prompt_room(1, 1), 0.02 + 0.001 * (1 + pace.prompt_room(1, 1)))
    assert pace.prompt_room(1, 1) + 1 >= (before + 1) / 4


@given(st.floats(0.001, 0.3), st.floats(1e-5, 0.01), st.integers(1, 64))
def test_prompts_beside_streams_keep_the_step_short(
    fixed_s: float, token_s: float, streams: int
) -> None:
    """Whatever the machine; where streams alone take long, the step takes twice as long."""
    pace, extra = Pace(), 0
    for _ in range(200):
        extra = min(512, pace.prompt_room(streams, 1))
        pace.note(streams + extra, fixed_s + token_s * (streams + extra))
    alone = fixed_s + token_s * streams
    assert extra == LEAST or alone + token_s * extra <= 1.05 * max(PROMPTS_S, 2 * alone)


def test_prompts_get_longer_steps_where_more_of_them_wait_than_there_are_streams() -> None:
    pace = known_pace(fixed_s=0.0, token_s=PROMPTS_S / 100)
    assert pace.prompt_room(2, 2) == pace.prompt_room(2, 1) == 96 - 2
    assert pace.prompt_room(2, 6) == 288 - 2


@given(st.floats(1e-5, 0.02), st.integers(1, 64))
def test_streams_and_prompts_are_whole_tiles_where_that_leaves_prompts_any(
    token_s: float, streams: int
) -> None:
    room = known_pace(fixed_s=0.0, token_s=token_s).prompt_room(streams, 1)
    assert room >= LEAST
    assert (streams + room) % TILE == 0 or streams + room < TILE * -(-(streams + LEAST) // TILE)


def test_streams_get_their_token_in_every_step_whatever_prompts_come() -> None:
    engine, runner = fake_engine(config(max_num_batched_tokens=16, max_num_seqs=8))
    engine.add(request("first", range(40), max_tokens=2))
    engine.step()
    for name in ("a", "b", "c"):
        engine.add(request(name, [ord(name)], max_tokens=30))
    while len(engine.scheduler.running) < 4:
        engine.step()
    for number in range(4):
        engine.add(request(f"long {number}", range(100 * number, 100 * number + 50)))
    for _ in range(20):
        runner.batches.clear()
        engine.step()
        shares = {e.sequence.request_id: e.num_tokens for b in runner.batches for e in b.entries}
        assert [shares[name] for name in "abc"] == [1, 1, 1]
        assert sum(shares.values()) <= 16


def test_prompts_beside_streams_are_cut_and_prompts_alone_are_not() -> None:
    engine, runner = fake_engine(config(max_num_batched_tokens=32, max_num_seqs=8))
    engine.scheduler.pace = known_pace(fixed_s=0.01, token_s=PROMPTS_S / 21)
    engine.add(request("prompt", range(50), max_tokens=9))
    engine.step()
    assert [e.num_tokens for e in runner.batches[-1].entries] == [32]
    engine.scheduler.pace = known_pace(fixed_s=0.01, token_s=PROMPTS_S / 21)
    engine.step()
    engine.add(request("late", range(100, 150), max_tokens=1))
    engine.scheduler.pace = known_pace(fixed_s=0.01, token_s=PROMPTS_S / 21)
    engine.step()
    assert [e.num_tokens for e in runner.batches[-1].entries] == [1, 19]


def test_the_engine_learns_its_pace_from_its_clock() -> None:
    engine, _ = fake_engine(config(max_num_batched_tokens=32))
    ticks = iter(range(100))
    engine._clock = lambda: float(next(ticks))
    engine.add(request("live", range(20), max_tokens=1))
    engine.step()
    assert engine.scheduler.pace.room(20) == int(SLOWDOWN * 20), "one second for twenty tokens"


def test_the_less_urgent_take_no_place_in_the_line_of_the_urgent() -> None:
    engine, _ = fake_engine(config(max_queued_requests=1))
    engine.add(background("late", [1]))
    with pytest.raises(QueueFull):
        engine.add(background("later", [1]))
    engine.add(request("live", [1]))
    with pytest.raises(QueueFull):
        engine.add(request("more", [1]))
    assert run_to_end(engine).outputs.keys() == {"late", "live"}

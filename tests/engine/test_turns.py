"""Fused compositions take turns: one at a time, none waits longer than the others' quanta."""

from collections import Counter

from engines import Collected, expected_tokens, fake_engine, request
from hypothesis import given, settings
from hypothesis import strategies as st

from server.adapters.composition import BASE, Composition
from server.engine.config import EngineConfig
from server.engine.sequence import GenerationRequest, Mode
from server.engine.turns import QUANTUM, Turns

A, B, C = (Composition.linear([(f"sha256:{letter}", 1.0)]) for letter in "abc")


def fused(
    name: str, prompt: list[int], composition: Composition, max_tokens: int
) -> GenerationRequest:
    return request(name, prompt, composition, mode=Mode.FUSED, max_tokens=max_tokens)


def config(**sizes: int) -> EngineConfig:
    return EngineConfig(**{"max_model_len": 200, "num_pages": 200, **sizes}, may_fuse=True)  # type: ignore[arg-type]


def test_nobody_asks_and_nothing_is_fused() -> None:
    turns = Turns()
    turns.begin([])
    assert turns.current is None


def test_a_turn_lasts_a_quantum_while_others_wait_and_for_ever_while_none_does() -> None:
    turns = Turns(quantum=3)
    order = []
    for _ in range(10):
        turns.begin([A, B, C])
        order.append(turns.current)
    assert order == [A, A, A, B, B, B, C, C, C, A]
    alone = Turns(quantum=3)
    for _ in range(10):
        alone.begin([A])
        assert alone.current == A
    alone.begin([A, B])
    assert alone.current == B


def test_whoever_comes_back_stands_at_the_end() -> None:
    turns = Turns(quantum=1)
    order = []
    for asking in ([A, B], [B], [A, B, C], [A, B, C], [A, B, C]):
        turns.begin(asking)
        order.append(turns.current)
    assert order == [A, B, A, C, B]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.lists(st.sets(st.sampled_from([A, B, C])), min_size=1, max_size=60))
def test_nobody_waits_longer_than_the_quanta_of_the_others(
    quantum: int, steps: list[set[Composition]]
) -> None:
    turns, waited = Turns(quantum), Counter[Composition]()
    for asking in steps:
        turns.begin(sorted(asking, key=lambda composition: composition.digest))
        assert turns.current in asking or (turns.current is None and not asking)
        waited = Counter({c: waited[c] + 1 for c in asking if c != turns.current})
        assert all(count <= 2 * quantum for count in waited.values())


def test_a_step_computes_its_own_composition_and_everything_that_is_not_fused() -> None:
    engine, runner = fake_engine(config())
    asked = [
        fused("a", [1, 2, 3], A, max_tokens=40),
        fused("b", [4, 5], B, max_tokens=40),
        request("batched", [6], A, max_tokens=90),
        request("auto", [7, 8], B, mode=Mode.AUTO, max_tokens=90),
        request("base", [9], max_tokens=90),
    ]
    for one in asked:
        engine.add(one)
    collected = Collected()
    while engine.has_work:
        collected.add(engine.step())
        engine.check_integrity()
    for one in asked:
        expected = expected_tokens(one.prompt_token_ids, one.sampling.max_tokens)
        assert collected.tokens(one.request_id) == expected
    for number, batch in enumerate(runner.batches):
        names = {entry.sequence.request_id for entry in batch.entries}
        if number < 90:
            assert {"batched", "auto", "base"} <= names
        assert names & {"a", "b"} <= {"a" if batch.fused == A else "b"}
    changes = [b.fused for b in runner.batches]
    assert changes[: 2 * QUANTUM + 1] == [A] * QUANTUM + [B] * QUANTUM + [A]
    assert changes[-1] is None


def test_those_whose_turn_it_is_not_keep_their_place_in_line() -> None:
    engine, runner = fake_engine(config(max_num_seqs=2))
    for name, composition in (("a", A), ("b", B), ("c", C)):
        engine.add(fused(name, [1], composition, max_tokens=5))
    engine.add(request("late", [2], max_tokens=5))
    served: list[str] = []
    while engine.has_work:
        engine.step()
        engine.check_integrity()
        served += [e.sequence.request_id for e in runner.batches[-1].entries]
    assert list(dict.fromkeys(served)) == ["a", "b", "c", "late"]


@st.composite
def loads(draw: st.DrawFn) -> tuple[EngineConfig, list[tuple[int, GenerationRequest]]]:
    size = draw(st.sampled_from([1, 4, 16]))
    sizes = {
        "max_model_len": 40,
        "num_pages": -(-40 // size) + draw(st.integers(0, 40)),
        "page_size": size,
        "max_num_seqs": draw(st.integers(1, 6)),
        "max_num_batched_tokens": draw(st.integers(1, 40)),
    }
    requests = []
    for index in range(draw(st.integers(1, 10))):
        length = draw(st.integers(1, 20))
        one = request(
            str(index),
            [(index * 7 + at) % 5 for at in range(length)],
            draw(st.sampled_from([A, B, C])),
            mode=draw(st.sampled_from([Mode.FUSED, Mode.FUSED, *Mode])),
            max_tokens=draw(st.integers(1, 19)),
        )
        requests.append((draw(st.integers(0, 40)), one))
    return config(**sizes), requests


@settings(max_examples=150, deadline=None)
@given(loads())
def test_under_any_load_every_request_ends_in_time_with_its_own_tokens(
    load: tuple[EngineConfig, list[tuple[int, GenerationRequest]]],
) -> None:
    """The oldest request waits for its turn, then is served; it loses its pages to nobody."""
    sizes, visits = load
    engine, runner = fake_engine(sizes)
    own = [-(-40 // sizes.max_num_batched_tokens) + one.sampling.max_tokens for _, one in visits]
    limit = 40 + sum(steps * 3 + 2 * QUANTUM for steps in own)
    collected, step = Collected(), 0
    while engine.has_work or any(arrives >= step for arrives, _ in visits):
        assert step <= limit, "no progress"
        for arrives, one in visits:
            if arrives == step:
                engine.add(one)
        if engine.has_work:
            collected.add(engine.step())
            assert runner.batches[-1].entries, "a step of nothing"
        engine.check_integrity()
        step += 1
    for _, one in visits:
        expected = expected_tokens(one.prompt_token_ids, one.sampling.max_tokens)
        assert collected.tokens(one.request_id) == expected
    for batch in runner.batches:
        asking = {e.sequence.request.composition for e in batch.entries if e.sequence.is_fused}
        assert asking <= {batch.fused}


def test_pages_are_never_shared_between_modes() -> None:
    engine, _ = fake_engine(config(page_size=4))
    prompt = list(range(20))
    for mode in Mode:
        engine.add(request(mode.value, prompt, A, mode=mode, max_tokens=1))
        [output] = engine.step()
        assert output.num_cached == 0
    for mode in Mode:
        engine.add(request(mode.value, prompt, A, mode=mode, max_tokens=1))
        [output] = engine.step()
        assert output.num_cached == 16


def test_batched_requests_are_of_another_class_where_weights_may_be_fused() -> None:
    never, may = EngineConfig(8, 8), EngineConfig(8, 8, may_fuse=True)
    assert never.mode_class(Mode.BATCHED) == "batched"
    classes = {may.mode_class(mode) for mode in Mode} | {"batched"}
    assert len(classes) == 4


def test_the_base_has_no_turn_of_its_own() -> None:
    engine, runner = fake_engine(config())
    engine.add(request("base", [1], BASE, max_tokens=2))
    engine.add(fused("a", [1], A, max_tokens=2))
    engine.step()
    assert (runner.batches[-1].fused, len(runner.batches[-1].entries)) == (A, 2)

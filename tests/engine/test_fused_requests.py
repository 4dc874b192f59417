"""Requests whose composition is in the weights: their logits, and those of whatever runs beside."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engines import MakeEngine, RealEngine, RecordingRunner, request, run_to_end, weights_with
from transformers import AutoModelForCausalLM

from server.adapters.composition import BASE, Composition
from server.engine.errors import StepFailed
from server.engine.fuser import CHEAPER, FAILED, RELEASED, REQUEST, Fuser
from server.engine.sequence import FinishReason, GenerationRequest, Mode
from server.kernels.cpu import kernels as cpu_kernels
from server.kernels.cpu.deltas import add_deltas
from server.kernels.cpu.packed_numbers import numbers_of
from server.kernels.cpu.products import can_pack

OF_LARGEST = 2e-5  # of the largest logit, against transformers
TOLERANCE = 1e-4  # against the same request by itself
Logits = dict[tuple[str, int], torch.Tensor]


@pytest.fixture
def real(tiny_engine: MakeEngine) -> Iterator[RealEngine]:
    """The engines of a test share weights, which are the base's again at its end."""
    real = tiny_engine("phi3-mini")
    before = sha256(real)
    yield real
    assert sha256(real) == before


@pytest.fixture
def fusable(real: RealEngine) -> list[Composition]:
    """Single adapters of every kind that fuses, and sums of them."""
    kinds = {digest: set(adapter.kinds) for digest, adapter in sorted(real.adapters.items())}
    digests = [digest for digest, own in kinds.items() if own <= {"element", "block"}]
    single = [Composition.linear([(digest, 1.0)]) for digest in digests]
    return [*single, Composition.linear([(digests[0], 0.5), (digests[1], -1.5)])]


def sha256(real: RealEngine) -> list[str]:
    weights = [weight for _, weight in real.model.weights.linears()]
    weights.append(real.model.weights.embed)
    return [hashlib.sha256(numbers_of(weight).tobytes()).hexdigest() for weight in weights]


def addresses(real: RealEngine) -> list[int]:
    return [numbers_of(weight).ctypes.data for _, weight in real.model.weights.linears()]


def prompt_of(index: int) -> list[int]:
    return [(index * 37 + position * 11) % 300 + 5 for position in range(3 + index % 9)]


def fused(name: str, composition: Composition, max_tokens: int = 6) -> GenerationRequest:
    return plain(name, composition, Mode.FUSED, max_tokens)


def plain(
    name: str, composition: Composition, mode: Mode = Mode.BATCHED, max_tokens: int = 6
) -> GenerationRequest:
    prompt = prompt_of(len(name))
    return request(name, prompt, composition, mode=mode, max_tokens=max_tokens, ignore_eos=True)


def run(real: RealEngine, requests: list[GenerationRequest], **sizes: int) -> Logits:
    engine, runner = real.fusing_engine(**sizes)
    run_to_end(engine, requests)
    finish(runner)
    return runner.recorded


def finish(runner: RecordingRunner) -> Fuser:
    assert runner.fuser is not None
    runner.fuser.undo()
    return runner.fuser


def company(real: RealEngine, fusable: list[Composition]) -> list[GenerationRequest]:
    """The base, what is fused too, other adapters of all kinds, a mixture; another fused one."""
    others = [Composition.linear([(digest, 1.0)]) for digest in sorted(real.adapters)[:8]]
    routed = Composition.arrow([(d, 1.0) for d in sorted(real.adapters)[:3]], 0.7, 2)
    batched = [plain("b" * (n + 1), c) for n, c in enumerate([BASE, *others, fusable[-1], routed])]
    late = request("late", prompt_of(7), fusable[1], adapter_from=3, max_tokens=6, ignore_eos=True)
    return [*batched, late, plain("auto", fusable[0], Mode.AUTO), fused("turn", fusable[2])]


def test_fused_logits_are_those_of_transformers_with_the_delta_in_its_weights(
    real: RealEngine, fusable: list[Composition]
) -> None:
    for composition in (fusable[0], fusable[-1]):
        model = AutoModelForCausalLM.from_pretrained(
            real.checkpoint.directory, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.inference_mode():
            for digest, coefficient in composition.members:
                for layer, delta in weights_with(real.adapters[digest], coefficient).items():
                    model.get_submodule(layer).weight += delta
            engine, runner = real.fusing_engine()
            collected = run_to_end(engine, [fused("it", composition, max_tokens=12)])
            finish(runner)
            tokens = [*prompt_of(2), *collected.tokens("it")]
            expected = model(torch.tensor([tokens]), use_cache=False).logits[0]
        for (_, position), found in runner.recorded.items():
            difference = (found - expected[position]).abs().max()
            assert difference <= OF_LARGEST * expected[position].abs().max()


def test_whatever_runs_beside_is_what_it_is_alone(
    real: RealEngine, fusable: list[Composition]
) -> None:
    requests = [fused("it", fusable[0]), fused("sum", fusable[-1]), *company(real, fusable)]
    together = run(real, requests, max_num_batched_tokens=2048)
    for one in requests:
        engine, runner = real.engine()
        run_to_end(engine, [as_batched(one)])
        for key, expected in runner.recorded.items():
            torch.testing.assert_close(
                together[key], expected, rtol=0, atol=TOLERANCE, msg=f"{key} differs"
            )


def as_batched(one: GenerationRequest) -> GenerationRequest:
    return request(
        one.request_id,
        one.prompt_token_ids,
        one.composition,
        one.adapter_from,
        max_tokens=6,
        ignore_eos=True,
    )


@pytest.mark.parametrize("budget", [2048, 64, 7])
def test_fused_bits_are_the_same_in_any_company(
    real: RealEngine, fusable: list[Composition], budget: int
) -> None:
    if not can_pack():
        pytest.skip("this build of torch has no packed products")
    own = [fused("it", fusable[0]), fused("sum", fusable[-1])]
    own.append(
        request("from", prompt_of(8), fusable[3], 4, mode=Mode.FUSED, max_tokens=6, ignore_eos=True)
    )
    alone = {key: row for one in own for key, row in run(real, [one]).items()}
    sizes = {"max_num_batched_tokens": budget, "max_num_seqs": min(budget, 64)}
    together = run(real, [*company(real, fusable), *own], **sizes)
    assert [key for key, row in alone.items() if not torch.equal(together[key], row)] == []


def test_a_fused_step_runs_no_delta_kernel_and_moves_no_weight(
    real: RealEngine, fusable: list[Composition], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counting(*given: Any) -> None:
        calls.append(len(given))
        add_deltas(*given)

    monkeypatch.setattr(cpu_kernels, "add_deltas", counting)
    engine, runner = real.fusing_engine()
    before = addresses(real)
    run_to_end(engine, [fused("a", fusable[0]), fused("b", fusable[0])])
    assert calls == []
    assert addresses(real) == before
    run_to_end(engine, [fused("c", fusable[0]), plain("base", BASE)])
    assert calls, "others are corrected"
    fuser = finish(runner)
    assert fuser.switches == {REQUEST: 1}


def test_a_switch_that_fails_fails_those_who_wanted_it_and_leaves_the_base(
    real: RealEngine, fusable: list[Composition], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, runner = real.fusing_engine()
    write, fails = real.kernels.write, [True]

    def failing(weight: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> None:
        write(weight, places[: len(places) // 2], values[: len(places) // 2])
        if fails and fails.pop():
            raise MemoryError("in the middle")
        write(weight, places, values)

    monkeypatch.setattr(real.kernels, "write", failing)
    it, again = (
        request(name, range(5, 75), fusable[0], mode=Mode.FUSED, max_tokens=6, ignore_eos=True)
        for name in ("it", "again")
    )
    requests = [it, plain("base", BASE), plain("other", fusable[1])]
    collected = run_to_end(engine, requests)
    assert isinstance(collected.last("it").error, StepFailed)
    for name in ("base", "other"):
        assert collected.last(name).finish_reason is FinishReason.LENGTH
    after = run_to_end(engine, [again]).last("again")
    assert after.error is None
    assert after.num_cached == 0, "pages of a step that failed hold nothing"
    assert finish(runner).switches == {FAILED: 1, REQUEST: 1}


def test_weights_that_cannot_be_undone_compute_nothing(
    real: RealEngine, fusable: list[Composition], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(real, [plain("base", BASE)])
    engine, runner = real.fusing_engine()
    run_to_end(engine, [fused("it", fusable[0])])

    def broken(*_: object) -> None:
        raise OSError("the memory is gone")

    with monkeypatch.context() as patch:
        patch.setattr(real.kernels, "write", broken)
        collected = run_to_end(engine, [fused("next", fusable[1]), plain("base", BASE)])
        assert all(isinstance(collected.last(n).error, StepFailed) for n in ("next", "base"))
    runner.recorded.clear()
    run_to_end(engine, [plain("base", BASE)])
    for key, row in expected.items():
        assert torch.equal(runner.recorded[key], row)


def test_auto_fuses_once_it_has_paid_as_much_and_goes_back_when_others_pay(
    real: RealEngine, fusable: list[Composition]
) -> None:
    engine, runner = real.fusing_engine(max_model_len=120)
    fuser = runner.fuser
    assert fuser is not None
    long = request("it", [5], fusable[0], mode=Mode.AUTO, max_tokens=110, ignore_eos=True)
    engine.add(long)
    while fuser.now == BASE:
        engine.step()
    paid = engine.stats().generation_tokens
    assert 40 <= paid <= 50, "so many single tokens cost a switch"
    run_to_end(engine)
    assert (fuser.now, fuser.switches) == (fusable[0], {CHEAPER: 1})
    for index in range(12):
        run_to_end(engine, [plain(f"base{index}", BASE)])
    assert (fuser.now, fuser.switches) == (BASE, {CHEAPER: 2})
    batched = real.engine()
    run_to_end(batched[0], [request("it", [5], fusable[0], max_tokens=110, ignore_eos=True)])
    for key, row in batched[1].recorded.items():
        torch.testing.assert_close(runner.recorded[key], row, rtol=0, atol=TOLERANCE)


def test_auto_stays_batched_where_nothing_can_be_fused(real: RealEngine) -> None:
    [low_rank, *_] = [d for d, a in sorted(real.adapters.items()) if "low_rank" in a.kinds]
    composition = Composition.linear([(low_rank, 1.0)])
    engine, runner = real.fusing_engine()
    asked = request("it", [5], composition, mode=Mode.AUTO, max_tokens=110, ignore_eos=True)
    collected = run_to_end(engine, [asked])
    assert collected.last("it").finish_reason is FinishReason.LENGTH
    assert finish(runner).switches == {}


def test_an_adapter_that_is_wanted_back_leaves_the_weights(
    real: RealEngine, fusable: list[Composition]
) -> None:
    engine, runner = real.fusing_engine()
    before = sha256(real)
    run_to_end(engine, [fused("it", fusable[0])])
    assert sha256(real) != before
    fuser = runner.fuser
    assert fuser is not None
    fuser.let_go("sha256:another")
    assert fuser.now == fusable[0]
    fuser.let_go(fusable[0].digests[0])
    assert sha256(real) == before
    assert fuser.switches == {REQUEST: 1, RELEASED: 1}


def test_a_tied_head_is_never_written(tiny_engine: MakeEngine) -> None:
    tied = tiny_engine("phi4-mini")
    assert "lm_head" not in tied.model.fusable_weights()
    assert "lm_head" in tiny_engine("phi3-mini").model.fusable_weights()

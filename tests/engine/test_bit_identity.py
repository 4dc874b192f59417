"""On a CPU a request's logits are the same bits in any company, however its work is cut up."""

import pytest
import torch
from engines import MakeEngine, RealEngine, request, run_to_end

from server.adapters.composition import BASE, Composition
from server.engine.sequence import GenerationRequest
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.products import can_pack

Logits = dict[tuple[str, int], torch.Tensor]


@pytest.fixture(params=["fp32", "int8"])
def real(request: pytest.FixtureRequest, tiny_engine: MakeEngine) -> RealEngine:
    if request.param == "int8":
        return tiny_engine("phi3-mini").with_kernels(Int8CpuKernels())
    if not can_pack():
        pytest.skip("this build of torch has no packed products")
    return tiny_engine("phi3-mini")


def mixed_requests(real: RealEngine) -> list[GenerationRequest]:
    """The base, single adapters of every kind, sums, a routed mixture; prompts of many lengths."""
    digests = sorted(real.adapters)
    compositions = [BASE, BASE, *(Composition.linear([(d, 1.0)]) for d in digests[:9])]
    compositions += [
        Composition.linear([(digests[0], 0.5), (digests[1], -0.7), (digests[2], 1.3)]),
        Composition.linear([(digests[3], 1.0)]),
        Composition.linear([(digests[3], 1.0)]),
        Composition.arrow([(digests[0], 1.0), (digests[3], 1.5), (digests[6], 1.0)], 0.7, 2),
    ]
    return [
        request(
            str(index),
            [(index * 37 + position * 11) % 300 + 5 for position in range(3 + 5 * (index % 12))],
            composition,
            max_tokens=5,
            ignore_eos=True,
        )
        for index, composition in enumerate(compositions)
    ]


def run(real: RealEngine, requests: list[GenerationRequest], **sizes: int) -> Logits:
    engine, runner = real.engine(**sizes)
    run_to_end(engine, requests)
    return runner.recorded


def assert_same_bits(found: Logits, expected: Logits) -> None:
    assert found.keys() == expected.keys()
    assert [key for key, row in expected.items() if not torch.equal(found[key], row)] == []


@pytest.fixture
def alone(real: RealEngine) -> Logits:
    """What each request gets by itself, its prompt in one chunk."""
    return {
        key: row
        for one in mixed_requests(real)
        for key, row in run(real, [one], max_num_batched_tokens=2048).items()
    }


@pytest.mark.parametrize("budget", [2048, 64, 7])
def test_batch_mates_and_chunks_change_no_bit(real: RealEngine, alone: Logits, budget: int) -> None:
    requests = mixed_requests(real)
    seats = min(budget, 64)
    found = run(real, requests, max_num_seqs=seats, max_num_batched_tokens=budget)
    assert_same_bits(found, alone)


def test_order_of_arrival_changes_no_bit(real: RealEngine, alone: Logits) -> None:
    requests = mixed_requests(real)[::-1]
    assert_same_bits(run(real, requests, max_num_batched_tokens=100), alone)


def test_preemption_changes_no_bit(real: RealEngine, alone: Logits) -> None:
    engine, runner = real.engine(num_pages=34, max_num_batched_tokens=200)
    run_to_end(engine, mixed_requests(real))
    assert engine.stats().preemptions > 0
    assert_same_bits(runner.recorded, alone)


def test_prefix_hits_change_no_bit(real: RealEngine, alone: Logits) -> None:
    engine, runner = real.engine()
    for one in mixed_requests(real):
        run_to_end(engine, [one])
    first = dict(runner.recorded)
    runner.recorded.clear()
    for one in mixed_requests(real):
        run_to_end(engine, [one])
    assert engine.stats().prefix_hits > 0
    assert_same_bits(first, alone)
    assert_same_bits(runner.recorded, {key: first[key] for key in runner.recorded})

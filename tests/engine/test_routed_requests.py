"""Routed requests among others: what each gets alone, however they are batched, cut and cached."""

import pytest
import torch
from engines import MakeEngine, RealEngine, request, run_to_end
from routed_reference import Arrow, route
from torch import Tensor
from transformers import AutoModelForCausalLM

from server.adapters.composition import BASE, Composition
from server.engine.page_keys import extend_keys
from server.engine.sequence import GenerationRequest, Sequence

TOLERANCE = 1e-4
Logits = dict[tuple[str, int], Tensor]


@pytest.fixture
def real(tiny_engine: MakeEngine) -> RealEngine:
    return tiny_engine("phi3-mini")


def prompt_of(index: int) -> list[int]:
    return [(index * 37 + position * 11) % 300 + 5 for position in range(4 + index % 9)]


def routed(
    real: RealEngine, *numbers: int, temperature: float = 0.5, top_k: int | None = None
) -> Composition:
    """Some of the engine's adapters; number n has the weight 1 + n / 8."""
    digests = sorted(real.adapters)
    return Composition.arrow([(digests[n], 1 + n / 8) for n in numbers], temperature, top_k)


def mixed_requests(real: RealEngine) -> list[GenerationRequest]:
    """The base, single adapters, sums, and routed sets that share adapters with all of these."""
    digests = sorted(real.adapters)
    compositions = [
        BASE,
        routed(real, 0, 1, 2),
        Composition.linear([(digests[0], 1.0)]),
        routed(real, 0, 1, 2, top_k=1),
        routed(real, 0, 1, 2),
        Composition.linear([(digests[1], 0.5), (digests[2], -0.7)]),
        routed(real, *range(12), top_k=3),
        routed(real, 2, 3, temperature=0.01),
        BASE,
        routed(real, *range(20), temperature=4.0),
    ]
    return [
        request(
            str(index),
            prompt_of(index),
            composition,
            adapter_from=3 if index in (4, 6) else 0,
            max_tokens=6,
            ignore_eos=True,
        )
        for index, composition in enumerate(compositions)
    ]


def run(real: RealEngine, requests: list[GenerationRequest], **sizes: int) -> Logits:
    engine, runner = real.engine(**sizes)
    run_to_end(engine, requests)
    return runner.recorded


def assert_same_logits(found: Logits, expected: Logits) -> None:
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        torch.testing.assert_close(found[key], row, rtol=0, atol=TOLERANCE, msg=f"{key} differs")


def test_a_mixed_batch_gives_what_each_request_gives_alone(real: RealEngine) -> None:
    requests = mixed_requests(real)
    alone = {key: row for one in requests for key, row in run(real, [one]).items()}
    assert_same_logits(run(real, requests), alone)


@pytest.mark.parametrize(
    "sizes",
    [
        {"max_num_batched_tokens": 7},
        {"max_num_seqs": 3},
        {"num_pages": 12, "max_model_len": 40},
        {"page_size": 1, "num_pages": 40, "max_model_len": 40, "max_num_batched_tokens": 9},
    ],
    ids=lambda sizes: ",".join(f"{k}={v}" for k, v in sizes.items()),
)
def test_chunks_seats_pages_and_preemption_change_nothing(
    real: RealEngine, sizes: dict[str, int]
) -> None:
    requests = mixed_requests(real)
    engine, runner = real.engine(**sizes)
    run_to_end(engine, requests)
    assert engine.scheduler.counts.preemptions > 0 or "num_pages" not in sizes
    assert_same_logits(runner.recorded, run(real, requests))


def test_a_prefix_hit_changes_nothing_and_other_routers_do_not_hit(real: RealEngine) -> None:
    prompt = [(i * 7) % 300 + 5 for i in range(30)]
    one, other = routed(real, 0, 1, 2), routed(real, 0, 1, 2, temperature=0.6)
    engine, runner = real.engine()
    run_to_end(engine, [request("warm", prompt, one, max_tokens=1)])
    hit = request("hit", prompt, one, max_tokens=4)
    collected = run_to_end(engine, [hit, request("miss", prompt, other, max_tokens=1)])
    assert collected.last("hit").num_cached == 28
    assert collected.last("miss").num_cached == 0
    found = {key: row for key, row in runner.recorded.items() if key[0] == "hit"}
    assert_same_logits(found, run(real, [hit]))


def page_keys(composition: Composition) -> list[bytes]:
    sequence = Sequence.start(request("r", range(12), composition))
    extend_keys(sequence, 3, 4, "fp32")
    return sequence.page_keys


def test_pages_are_keyed_by_all_that_a_router_does(real: RealEngine) -> None:
    digests = sorted(real.adapters)
    different = [
        BASE,
        Composition.linear([(digests[0], 1.0), (digests[1], 1.125), (digests[2], 1.25)]),
        routed(real, 0, 1, 2),
        routed(real, 0, 1, 2, temperature=0.25),
        routed(real, 0, 1, 2, top_k=1),
        routed(real, 0, 1, 2, top_k=2),
        routed(real, 0, 1),
        routed(real, 0, 1, 3),
    ]
    assert len({key for own in different for key in page_keys(own)}) == 3 * len(different)
    assert page_keys(routed(real, 2, 0, 1, top_k=3)) == page_keys(routed(real, 0, 1, 2))


@pytest.mark.parametrize(
    ("numbers", "temperature", "top_k"),
    [((0, 1, 2), 0.5, None), ((3, 6, 9, 12), 0.1, 2), ((0, 3, 5), 1e-6, None), ((0, 3), 1e6, None)],
)
def test_logits_are_those_of_the_definition(
    real: RealEngine, numbers: tuple[int, ...], temperature: float, top_k: int | None
) -> None:
    composition = routed(real, *numbers, temperature=temperature, top_k=top_k)
    prompt = prompt_of(8)
    found = run(real, [request("r", prompt, composition, max_tokens=3, ignore_eos=True)])
    members = [(real.adapters[digest], weight) for digest, weight in composition.members]
    model = AutoModelForCausalLM.from_pretrained(real.checkpoint.directory, dtype=torch.float32)
    route(model, Arrow(members, temperature, top_k or len(members)))
    sequence = list(prompt)
    for position in range(len(prompt) - 1, len(prompt) + 2):
        with torch.inference_mode():
            expected = model(torch.tensor([sequence])).logits[0, -1]
        row = found["r", position]
        torch.testing.assert_close(row, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        sequence.append(int(row.argmax()))


def test_the_coldest_router_is_hard_routing(real: RealEngine) -> None:
    hard = routed(real, 0, 1, 2, 3, top_k=1)
    cold = routed(real, 0, 1, 2, 3, temperature=1e-6)
    requests = [[request("r", prompt_of(7), own, max_tokens=4)] for own in (hard, cold)]
    assert_same_logits(run(real, requests[0]), run(real, requests[1]))


def test_the_hottest_router_is_the_mean_where_all_change_the_same_layers(real: RealEngine) -> None:
    touched = [{delta.layer for delta in a.deltas} for a in real.adapters.values()]
    widest = [
        d for d, own in zip(real.adapters, touched, strict=True) if own == max(touched, key=len)
    ]
    hot = Composition.arrow([(digest, 1.0) for digest in widest[:4]], 1e6, None)
    mean = Composition.linear([(digest, 0.25) for digest in widest[:4]])
    requests = [[request("r", prompt_of(7), own, max_tokens=4)] for own in (hot, mean)]
    assert_same_logits(run(real, requests[0]), run(real, requests[1]))


def test_one_member_is_that_adapter_at_its_weight(real: RealEngine) -> None:
    digest = sorted(real.adapters)[4]
    one = Composition.arrow([(digest, 0.75)], 0.3, 1)
    plain = Composition.linear([(digest, 0.75)])
    requests = [[request("r", prompt_of(7), own, max_tokens=4)] for own in (one, plain)]
    assert page_keys(one) == page_keys(plain)
    assert_same_logits(run(real, requests[0]), run(real, requests[1]))


def test_routing_makes_a_difference_that_the_tolerance_would_show(real: RealEngine) -> None:
    compositions = {
        "base": BASE,
        "all": routed(real, 0, 1, 2, temperature=0.1),
        "best": routed(real, 0, 1, 2, temperature=0.1, top_k=1),
        "hot": routed(real, 0, 1, 2, temperature=10.0),
        "fewer": routed(real, 0, 1),
    }
    requests = [request(n, prompt_of(3), own, max_tokens=1) for n, own in compositions.items()]
    rows = torch.stack(list(run(real, requests).values()))
    distances = torch.cdist(rows, rows, p=torch.inf).fill_diagonal_(torch.inf)
    assert distances.min() > 10 * TOLERANCE

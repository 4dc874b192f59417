"""What a request gets does not depend on what runs beside it, nor on how its work was cut up."""

import pytest
import torch
from engines import MakeEngine, RealEngine, request, run_to_end, weights_with
from transformers import AutoModelForCausalLM

from server.adapters.composition import BASE, Composition
from server.engine.errors import StepFailed
from server.engine.sequence import GenerationRequest

TOLERANCE = 1e-4
Logits = dict[tuple[str, int], torch.Tensor]


@pytest.fixture
def real(tiny_engine: MakeEngine) -> RealEngine:
    return tiny_engine("phi3-mini")


def prompt_of(index: int) -> list[int]:
    return [(index * 37 + position * 11) % 300 + 5 for position in range(3 + index % 9)]


def mixed_requests(real: RealEngine) -> list[GenerationRequest]:
    """40 requests: the base, 32 single adapters of mixed kinds, sums of several, late starts."""
    digests = sorted(real.adapters)
    compositions = [BASE] * 4 + [Composition.linear([(digest, 1.0)]) for digest in digests]
    compositions += [
        Composition.linear([(digests[0], 0.5), (digests[1], -0.7), (digests[2], 1.3)]),
        Composition.linear([(digests[3], 2.0)]),
        Composition.linear([(digests[1], 0.25), (digests[4], 0.25)]),
        Composition.linear([(digests[5], 1.0)]),
    ]
    return [
        request(
            str(index),
            prompt_of(index),
            composition,
            adapter_from=2 if index % 5 == 4 else 0,
            max_tokens=6,
            ignore_eos=True,
        )
        for index, composition in enumerate(compositions)
    ]


def run(real: RealEngine, requests: list[GenerationRequest], **sizes: int) -> Logits:
    engine, runner = real.engine(**sizes)
    run_to_end(engine, requests)
    return runner.recorded


def run_each_alone(real: RealEngine, requests: list[GenerationRequest]) -> Logits:
    return {key: row for one in requests for key, row in run(real, [one]).items()}


def assert_same_logits(found: Logits, expected: Logits) -> None:
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        torch.testing.assert_close(found[key], row, rtol=0, atol=TOLERANCE, msg=f"{key} differs")


def test_mixed_batch_gives_what_each_request_gives_alone(real: RealEngine) -> None:
    requests = mixed_requests(real)
    together = run(real, requests, max_num_seqs=64, max_num_batched_tokens=2048)
    assert_same_logits(together, run_each_alone(real, requests))


def test_adapters_make_a_difference_that_the_tolerance_would_show(real: RealEngine) -> None:
    digests = sorted(real.adapters)
    prompts = {"base": BASE} | {d: Composition.linear([(d, 1.0)]) for d in digests}
    requests = [
        request(name, prompt_of(3), composition, max_tokens=1)
        for name, composition in prompts.items()
    ]
    rows = list(run(real, requests).values())
    distances = torch.cdist(torch.stack(rows), torch.stack(rows), p=torch.inf)
    distances.fill_diagonal_(torch.inf)
    assert distances.min() > 100 * TOLERANCE


@pytest.mark.parametrize(
    "sizes",
    [
        {"max_num_batched_tokens": 7},
        {"max_num_seqs": 3},
        {"num_pages": 31},
        {"num_pages": 45, "max_num_batched_tokens": 13},
        {"page_size": 1, "num_pages": 700},
        {"page_size": 64, "num_pages": 60},
    ],
    ids=lambda sizes: ",".join(f"{k}={v}" for k, v in sizes.items()),
)
def test_chunks_seats_pages_and_preemption_change_nothing(
    real: RealEngine, sizes: dict[str, int]
) -> None:
    requests = mixed_requests(real)[::2]
    assert_same_logits(run(real, requests, **sizes), run(real, requests))


def test_adapter_whose_numbers_overflow_fails_its_own_request_only(real: RealEngine) -> None:
    wild = Composition.linear([(sorted(real.adapters)[0], 1e38)])
    requests = mixed_requests(real)[:6]
    engine, runner = real.engine()
    collected = run_to_end(engine, [*requests, request("wild", prompt_of(8), wild, max_tokens=6)])
    assert isinstance(collected.last("wild").error, StepFailed)
    found = {key: row for key, row in runner.recorded.items() if key[0] != "wild"}
    assert_same_logits(found, run_each_alone(real, requests))
    again = run_to_end(engine, [request("after", prompt_of(8), max_tokens=2)])
    assert again.last("after").error is None


def test_prefix_hit_gives_the_same_logits(real: RealEngine) -> None:
    digest = sorted(real.adapters)[2]
    prompt = [(i * 7) % 300 + 5 for i in range(30)]
    composition = Composition.linear([(digest, 1.0)])
    engine, runner = real.engine()
    run_to_end(engine, [request("warm", prompt, composition, max_tokens=1)])
    collected = run_to_end(engine, [request("hit", prompt, composition, max_tokens=4)])
    assert collected.last("hit").num_cached == 28
    alone = run(real, [request("hit", prompt, composition, max_tokens=4)])
    assert_same_logits({k: v for k, v in runner.recorded.items() if k[0] == "hit"}, alone)


def test_adapter_that_starts_later_shares_the_bases_pages(real: RealEngine) -> None:
    prompt = [(i * 7) % 300 + 5 for i in range(30)]
    composition = Composition.linear([(sorted(real.adapters)[0], 1.0)])
    late = request("late", prompt, composition, adapter_from=24, max_tokens=4)
    engine, runner = real.engine()
    run_to_end(engine, [request("base", prompt, max_tokens=1)])
    collected = run_to_end(engine, [late])
    assert collected.last("late").num_cached == 24
    shared = {k: v for k, v in runner.recorded.items() if k[0] == "late"}
    assert_same_logits(shared, run(real, [late]))
    whole = run(real, [request("late", prompt, composition, max_tokens=4)])
    assert (whole["late", 29] - shared["late", 29]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("index", range(0, 8))
def test_one_adapter_equals_transformers_with_changed_weights(real: RealEngine, index: int) -> None:
    digest = sorted(real.adapters)[index]
    prompt = prompt_of(8)
    found = run(real, [request("r", prompt, Composition.linear([(digest, -0.5)]), max_tokens=5)])
    model = AutoModelForCausalLM.from_pretrained(real.checkpoint.directory, dtype=torch.float32)
    for layer, change in weights_with(real.adapters[digest], -0.5).items():
        model.get_submodule(layer).weight.data += change
    sequence = list(prompt)
    for position in range(len(prompt) - 1, len(prompt) + 4):
        with torch.inference_mode():
            expected = model(torch.tensor([sequence])).logits[0, -1]
        row = found["r", position]
        torch.testing.assert_close(row, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        sequence.append(int(row.argmax()))


def test_sum_of_adapters_equals_transformers_with_the_sum_of_changes(real: RealEngine) -> None:
    digests = sorted(real.adapters)[:3]
    weights = (0.5, -0.7, 1.3)
    composition = Composition.linear(zip(digests, weights, strict=True))
    found = run(real, [request("r", prompt_of(8), composition, max_tokens=1)])
    model = AutoModelForCausalLM.from_pretrained(real.checkpoint.directory, dtype=torch.float32)
    for digest, weight in zip(digests, weights, strict=True):
        for layer, change in weights_with(real.adapters[digest], weight).items():
            model.get_submodule(layer).weight.data += change
    with torch.inference_mode():
        expected = model(torch.tensor([prompt_of(8)])).logits[0, -1]
    [row] = found.values()
    torch.testing.assert_close(row, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))

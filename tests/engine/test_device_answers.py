"""A device's runner answers what the plain one does: recorded, padded, on the same kernels."""

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from device_engines import Served, device_engine, plain_engine
from engines import Collected, MakeEngine, RealEngine, request, run_to_end
from recorded_kernels import Deltas, LoggingDevice, StepKernels

from server.adapters.composition import BASE, Composition
from server.device.host import HostDevice
from server.engine.scheduled import ScheduledSequence
from server.engine.sequence import GenerationRequest, Mode
from server.engine.step_inputs import StepInputs
from server.kernels.recorded import Capacity
from server.plan.steps import PRODUCTS_OF_ROW, buckets

VARIATIONS = ("phi3-mini", "phi3.5-mini", "phi4-mini", "llama")  # windowed, longrope, tied


@pytest.fixture(scope="module")
def on_steps(tiny_engine: MakeEngine) -> MakeEngine:
    """Small real engines on kernels whose steps can be recorded."""

    @cache
    def make(variation: str) -> RealEngine:
        return tiny_engine(variation).with_kernels(StepKernels("cpu"))

    return make


@pytest.fixture
def real(on_steps: MakeEngine) -> RealEngine:
    return on_steps("phi3-mini")


def mixed_requests(real: RealEngine) -> list[GenerationRequest]:
    """The base, adapters of every kind, sums, late starts; greedy, drawn, penalized, scored."""
    digests = sorted(real.adapters)
    compositions = [BASE, *(Composition.linear([(digest, 1.0)]) for digest in digests[:8])]
    compositions.append(Composition.linear([(digests[0], 0.5), (digests[9], -0.7)]))
    ways: list[dict[str, Any]] = [
        {},
        {"logprobs": 3},
        {"temperature": 0.9, "seed": 7, "top_p": 0.9},
        {"repetition_penalty": 1.3},
        {"prompt_logprobs": 2},
        {"min_tokens": 3, "logit_bias": {7: 2.5}},
    ]
    return [
        request(
            str(index),
            [(index * 37 + position * 11) % 300 + 5 for position in range(3 + index % 9)],
            compositions[index % len(compositions)],
            adapter_from=2 if index % 5 == 4 else 0,
            max_tokens=9,
            ignore_eos=True,
            **ways[index % len(ways)],
        )
        for index in range(20)
    ]


def answers(collected: Collected) -> dict[str, tuple[list[int], list[Any], list[Any]]]:
    return {
        name: (
            collected.tokens(name),
            collected.logprobs(name),
            [entry for output in outputs for entry in output.prompt_logprobs],
        )
        for name, outputs in collected.outputs.items()
    }


def both(
    real: RealEngine, requests: list[GenerationRequest], **sizes: Any
) -> tuple[dict[str, Any], dict[str, Any], LoggingDevice]:
    device = LoggingDevice()
    found = answers(run_to_end(device_engine(real, device, **sizes).engine, requests))
    expected = answers(run_to_end(plain_engine(real, **sizes).engine, requests))
    return found, expected, device


@pytest.mark.parametrize("variation", VARIATIONS)
def test_recorded_steps_answer_to_the_bit_what_plain_ones_do(
    on_steps: MakeEngine, variation: str
) -> None:
    real = on_steps(variation)
    found, expected, device = both(real, mixed_requests(real), max_num_seqs=12)
    assert found == expected
    assert device.log.count("replay") > 10


@pytest.mark.parametrize(
    "sizes",
    [
        {"max_num_seqs": 1},
        {"max_num_seqs": 5, "max_num_batched_tokens": 7},
        {"num_pages": 31},
        {"num_pages": 45, "max_num_batched_tokens": 13},
        {"page_size": 1, "num_pages": 700},
        {"num_draft_tokens": 4},
    ],
    ids=str,
)
def test_chunks_seats_preemption_and_drafts_change_nothing(
    real: RealEngine, sizes: dict[str, int]
) -> None:
    found, expected, _ = both(real, mixed_requests(real), **sizes)
    assert found == expected


def test_longrope_sequences_change_regime_in_recorded_steps(on_steps: MakeEngine) -> None:
    real = on_steps("phi3.5-mini")
    long = [request(str(n), range(5, 23 + n), max_tokens=12, ignore_eos=True) for n in range(4)]
    found, expected, device = both(real, long)
    assert found == expected
    assert "replay" in device.log


def test_fused_steps_are_replayed_on_the_changed_weights(real: RealEngine) -> None:
    digests = [d for d, own in sorted(real.adapters.items()) if set(own.kinds) == {"element"}]
    wanted = Composition.linear([(digests[0], 1.0)])
    requests = [
        request("fused", range(5, 11), wanted, mode=Mode.FUSED, max_tokens=12, ignore_eos=True),
        request("base", range(5, 11), max_tokens=12, ignore_eos=True),
        request("other", range(5, 11), Composition.linear([(digests[1], 1.0)]), max_tokens=12),
    ]

    def run(served: Served) -> dict[str, Any]:
        try:
            return answers(run_to_end(served.engine, requests))
        finally:
            assert served.fuser is not None
            served.fuser.undo()

    device = LoggingDevice()
    found = run(device_engine(real, device, may_fuse=True))
    assert found == run(plain_engine(real, may_fuse=True))
    assert found["fused"] != found["base"]
    assert "replay" in device.log


def test_routed_requests_run_unrecorded(real: RealEngine) -> None:
    digests = sorted(real.adapters)[:3]
    routed = Composition.arrow([(digest, 1.0) for digest in digests], 0.5, None)
    compositions = {"routed": routed, "plain": Composition.linear([(digests[0], 1.0)])}
    requests = [
        request(name, range(5, 11), own, max_tokens=5, ignore_eos=True)
        for name, own in compositions.items()
    ]
    found, expected, device = both(real, requests)
    assert found == expected
    assert "replay" not in device.log


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7])
def test_every_step_of_a_bucket_finds_its_numbers_at_the_same_addresses(
    real: RealEngine, rows: int
) -> None:
    kernels = StepKernels("cpu")
    served = device_engine(real.with_kernels(kernels), HostDevice(), max_num_seqs=8)
    requests = [request(str(n), [9 + n, 5], max_tokens=30, ignore_eos=True) for n in range(rows)]
    for one in requests:
        served.engine.add(one)
    served.engine.step()  # prompts
    served.engine.step()  # records the bucket
    kernels.addresses.clear()
    served.engine.step()
    first = set(kernels.addresses)
    for _ in range(20):
        served.engine.step()
    assert len(first) == 4  # token ids, tables, slots, attention's list
    assert kernels.addresses == first


def test_a_recording_is_made_again_only_for_what_it_cannot_take(real: RealEngine) -> None:
    kernels = StepKernels("cpu")
    own = real.with_kernels(kernels)
    kinds = {tuple(sorted(adapter.kinds)): d for d, adapter in sorted(own.adapters.items())}
    served = device_engine(own, HostDevice(), max_num_seqs=4)
    element, low_rank = kinds["element",], kinds["low_rank",]
    members = [(digest, 0.1) for digest, own_ in own.adapters.items() if "element" in own_.kinds]

    def run(composition: Composition) -> int:
        run_to_end(served.engine, [request("r", [7, 8, 9], composition, max_tokens=4)])
        return len(kernels.made)

    assert run(Composition.linear([(element, 1.0)])) == 1
    assert run(Composition.linear([(element, 0.5)])) == 1
    assert run(Composition.linear([(low_rank, 1.0)])) == 2  # another kind
    assert run(Composition.linear([(element, 2.0)])) == 2
    assert run(Composition.linear(members[:3])) == 3  # more pairs
    assert run(Composition.linear(members[:4])) == 3  # within the next power of two
    assert kernels.made[-1].tokens == 1


def test_what_no_recording_takes_is_computed_unrecorded(real: RealEngine) -> None:
    own = real.with_kernels(StepKernels("cpu", max_pairs=1))
    digests = sorted(own.adapters)[:2]
    both_of = Composition.linear([(digest, 0.5) for digest in digests])
    found, expected, device = both(own, [request("r", [7, 8, 9], both_of, max_tokens=6)])
    assert found == expected
    assert "replay" not in device.log


class OneAtATime(StepKernels):
    """Has room for the deltas of one recording, of at most `most_kinds` kinds."""

    def __init__(self, most_kinds: int = 99) -> None:
        super().__init__("cpu")
        self._most_kinds = most_kinds
        self.last: Callable[[], Deltas | None] = lambda: None

    def step_deltas(
        self, layers: Mapping[str, int], capacity: Capacity, kinds: frozenset[Hashable]
    ) -> Deltas:
        made = super().step_deltas(layers, capacity, kinds)
        if self.last() is not None or len(kinds) > self._most_kinds:
            raise torch.OutOfMemoryError
        self.last = weakref.ref(made)
        return made


def by_kinds(real: RealEngine) -> dict[tuple[str, ...], Composition]:
    adapters = sorted(real.adapters.items())
    return {tuple(sorted(own.kinds)): Composition.linear([(d, 1.0)]) for d, own in adapters}


def test_a_former_recording_goes_before_another_is_made(real: RealEngine) -> None:
    kernels, device = OneAtATime(), LoggingDevice()
    served = device_engine(real.with_kernels(kernels), device, max_num_seqs=1)
    for kind in ("element", "low_rank"):
        composition = by_kinds(real)[kind,]
        run_to_end(served.engine, [request(kind, [7, 8, 9], composition, max_tokens=4)])
    assert len(kernels.made) == 2
    assert device.log.count("replay") == 6


def test_steps_without_memory_for_a_recording_run_unrecorded(real: RealEngine) -> None:
    kernels = OneAtATime(most_kinds=0)
    wanted = [request("r", [7, 8, 9], by_kinds(real)["element",], max_tokens=6)]
    found, expected, device = both(real.with_kernels(kernels), wanted)
    assert found == expected
    assert "replay" not in device.log
    assert len(kernels.made) == 1  # tried once


def test_a_recording_has_room_for_no_more_products_than_were_planned(real: RealEngine) -> None:
    kernels = StepKernels("cpu")
    served = device_engine(real.with_kernels(kernels), HostDevice(), max_num_seqs=3)
    many = Composition.linear([(digest, 0.1) for digest in sorted(real.adapters)[:7]])
    requests = [request(str(n), [7 + n, 8], many, max_tokens=4, ignore_eos=True) for n in range(3)]
    run_to_end(served.engine, requests)
    assert [(own.tokens, own.products) for own in kernels.made] == [(3, 3 * PRODUCTS_OF_ROW)]


@pytest.mark.parametrize(
    ("most", "expected"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (64, (1, 2, 4, 8, 16, 32, 64))]
)
def test_buckets_are_powers_of_two_and_the_most_there_is(
    most: int, expected: tuple[int, ...]
) -> None:
    assert buckets(most) == expected


def test_what_padding_reads_changes_nothing(real: RealEngine) -> None:
    requests = mixed_requests(real)[:5]
    expected = answers(
        run_to_end(device_engine(real, HostDevice(), max_num_seqs=8).engine, requests)
    )
    served = device_engine(real, HostDevice(), max_num_seqs=8)
    for layer in (*served.runner.cache.keys, *served.runner.cache.values):
        layer[-2:] = torch.nan  # the spare pages
    assert answers(run_to_end(served.engine, requests)) == expected


def test_a_rows_pages_are_written_down_when_they_change_alone(
    real: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[tuple[int, int]] = []  # pages that were the former step's, and those that were not
    fill = StepInputs.fill

    def noting(inputs: StepInputs, entries: Sequence[ScheduledSequence]) -> None:
        before = list(inputs._listed)
        fill(inputs, entries)
        pairs = zip(before, inputs._listed, strict=True)
        own = [new is old for old, new in pairs][: len(entries)]
        filled.append((own.count(True), own.count(False)))

    monkeypatch.setattr(StepInputs, "fill", noting)
    served = device_engine(real, HostDevice(), max_num_seqs=1, page_size=4)
    run_to_end(served.engine, [request("0", [9, 5], max_tokens=13, ignore_eos=True)])
    steps = filled[-12:]  # tokens 3 to 14, of which 5, 9 and 13 begin a page
    assert steps.count((0, 1)) == 4
    assert steps.count((1, 0)) == 8

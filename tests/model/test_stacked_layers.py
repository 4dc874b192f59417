"""All layers in one call give what the single operations give, to the bit, or leave the step."""

import gc
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from weakref import ref

import pytest
import torch
from paged_runs import PagedRun
from tiny_adapters import make_adapter
from tiny_models import VARIATIONS, VOCAB_SIZE

from adapters_store.adapter import BaseIdentity, BaseLayer
from server.adapters.delta import ResidentAdapter, TokenPairs, make_resident, pair_tokens
from server.kernels.cpu import streams
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.cpu.products import can_pack
from server.kernels.cpu.stack import CpuStack
from server.kernels.interface import Kernels
from server.model.checkpoint import open_checkpoint
from server.model.load import load_model
from server.model.phi3 import Phi3

KINDS = ("element", "block 16x16", "low_rank", "bias")
STEPS = ((9, 1, 4), (1, 1, 1), (2, 1, 3), (1, 8, 1))  # tokens of each of three sequences
LENGTH = 13

Load = Callable[[str, str], Phi3]


@pytest.fixture(scope="module")
def load(tiny_checkpoint: Callable[[str], Path]) -> Load:
    """The model of a variation, in a precision."""
    if not can_pack():
        pytest.skip("this build of torch has no packed products")

    @cache
    def load(variation: str, precision: str) -> Phi3:
        kernels: Kernels = Int8CpuKernels() if precision == "int8" else CpuKernels()
        checkpoint = open_checkpoint(str(tiny_checkpoint(variation)))
        return load_model(checkpoint, torch.float32, "cpu", kernels)

    return load


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step was computed in one call."""
    answers: list[bool] = []
    run = CpuStack.run

    def watched(self: CpuStack, *arguments: object) -> bool:
        answers.append(run(self, *arguments))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(CpuStack, "run", watched)
    return answers


def one_by_one(model: Phi3) -> Phi3:
    """The same weights, whose kernels know nothing of layers."""
    kind = type(model.kernels)
    return Phi3(model.config, model.weights, type(kind.__name__, (kind,), {"stack": None})())


def residents(model: Phi3, kinds: Sequence[str]) -> list[ResidentAdapter]:
    shapes = model.config.linear_shapes()
    identity = BaseIdentity("base", {name: BaseLayer(own, "") for name, own in shapes.items()})
    layers = [name for i, name in enumerate(shapes) if i % 3]
    made = (make_adapter(identity, kind, i, layers) for i, kind in enumerate(kinds))
    return [make_resident(str(i), adapter, model.kernels) for i, adapter in enumerate(made)]


def outcomes(
    model: Phi3, steps: Sequence[Sequence[int]], adapters: Sequence[ResidentAdapter]
) -> list[torch.Tensor]:
    """Logits of every step, and what the cache holds at the end."""
    run, source = PagedRun(model), torch.Generator().manual_seed(3)
    lengths = [sum(own) for own in zip(*steps, strict=True)]
    sequences = [
        run.add(torch.randint(VOCAB_SIZE, (length,), generator=source)) for length in lengths
    ]
    found = []
    for step in steps:
        found += run.step(list(zip(sequences, step, strict=True)), pairs_of(step, adapters))
    return [*found, *run.cache.keys, *run.cache.values]


def pairs_of(step: Sequence[int], adapters: Sequence[ResidentAdapter]) -> TokenPairs | None:
    """All adapters on the second sequence, the first one on the last."""
    if not adapters:
        return None
    first, second, third = step
    members = [(adapter, 0.5 + index) for index, adapter in enumerate(adapters)]
    ranges = [(first, second, members), (first + second, third, members[:1])]
    return pair_tokens(ranges)


@pytest.mark.parametrize("kinds", [(), KINDS], ids=["base", "adapters"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_all_layers_at_once_change_no_bit(
    load: Load, taken: list[bool], variation: str, precision: str, kinds: tuple[str, ...]
) -> None:
    model = load(variation, precision)
    adapters = residents(model, kinds)
    expected = outcomes(one_by_one(model), STEPS, adapters)
    assert taken == []
    found = outcomes(model, STEPS, adapters)
    assert taken == [True] * len(STEPS)
    assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))


def test_what_is_no_stacks_step_is_left_as_it_was(load: Load, taken: list[bool]) -> None:
    """Dense deltas are no compiled ones; more rows than streams take are oneDNN's."""
    model = load("phi3-mini", "fp32")
    dense = residents(model, ("dense",))
    many = ((streams.FEW - 1, 1, 1),)
    for steps, adapters in ((STEPS, dense), (many, [])):
        expected = outcomes(one_by_one(model), steps, adapters)
        found = outcomes(model, steps, adapters)
        assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))
    assert not any(taken)
    assert len(taken) == len(STEPS) + len(many)


def test_an_adapter_that_was_computed_with_can_go(load: Load) -> None:
    model = load("phi3-mini", "fp32")
    adapters = residents(model, KINDS)
    outcomes(model, STEPS, adapters)
    alive = [ref(adapter) for adapter in adapters]
    adapters.clear()
    gc.collect()
    assert [own() for own in alive] == [None] * len(KINDS)

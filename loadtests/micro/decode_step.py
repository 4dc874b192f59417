"""Where the time of one step goes: each kernel, and what is left for everything else.

    python -m loadtests.micro.decode_step [--kernels cpu cpu-operations reference]
        [--checkpoint data/demo-base]

Steps of so many sequences with so much context, greedy, with log-probabilities as `make bench`
asks for; some where every sequence has an adapter of its own, 1 % of qkv. `cpu` and `int8` compute
all layers in one call, as they are served; `cpu-operations` and `int8-operations` do the same one
by one, to show each. The sides take turns. The last line is JSON.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from adapters_store.adapter import ElementDelta
from server.adapters.composition import BASE, Composition
from server.adapters.delta import ResidentAdapter
from server.engine.runner import ModelRunner
from server.engine.sampling_params import SamplingParams
from server.engine.scheduled import ScheduledBatch, ScheduledSequence
from server.engine.sequence import GenerationRequest, Sequence
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.reference import ReferenceKernels
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.kv_cache import allocate
from server.model.load import load_model

PAGE, NUM_PAGES, REPEATS = 32, 600, 9
KEEP_RATIO = 0.01


class Case(NamedTuple):
    """What a step computes."""

    sequences: int
    context: int
    new: int = 1
    adapters: int = 0  # as many as sequences, or none


STEPS = (
    *(Case(count, 64) for count in (1, 2, 4, 8, 32)),
    *(Case(count, 64, adapters=count) for count in (1, 8, 32)),
    Case(32, 512),
    Case(1, 512, new=512),
    Case(1, 512, new=512, adapters=1),
)


class Timed:
    """Kernels that add up the milliseconds spent in each of their operations."""

    stack: Any = None  # which would compute all layers in one call

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels
        self.ms: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kernels, name)
        return self._timed(name, found) if callable(found) else found

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.ms[name] += (time.perf_counter() - start) * 1e3
            return result

        return timed


class TimedWhole(Timed):
    """The same of kernels that compute all layers in one call."""

    def stack(self, layers: Any, form: Any) -> Any:
        return SimpleNamespace(run=self._timed("layers", self._kernels.stack(layers, form).run))


KINDS: dict[str, Callable[[], Timed]] = {
    "cpu": lambda: TimedWhole(CpuKernels()),
    "cpu-operations": lambda: Timed(CpuKernels()),
    "int8": lambda: TimedWhole(Int8CpuKernels()),
    "int8-operations": lambda: Timed(Int8CpuKernels()),
    "reference": lambda: Timed(ReferenceKernels("cpu")),
}


DEFAULT = ("cpu", "cpu-operations", "reference")


def main() -> None:
    arguments = _arguments()
    checkpoint = open_checkpoint(str(arguments.checkpoint))
    sides = {name: make_side(checkpoint, KINDS[name]()) for name in arguments.kernels}
    rows = [(name, case, ms) for case in STEPS for name, ms in measure_sides(sides, case).items()]
    table = Table("kernels", *Case._fields, "ms", "tok/s", "of it, ms")
    for name, case, ms in rows:
        parts = ", ".join(f"{part} {spent:.1f}" for part, spent in ms.items() if part != "step")
        rate = f"{case.sequences * case.new / ms['step'] * 1e3:.0f}"
        table.add_row(name, *map(str, case), f"{ms['step']:.1f}", rate, parts)
    Console().print(table)
    print(json.dumps([{"kernels": name, "step": case, "ms": ms} for name, case, ms in rows]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", nargs="+", choices=list(KINDS), default=DEFAULT)
    parser.add_argument("--checkpoint", type=Path, default=Path("data/demo-base"))
    return parser.parse_args()


def make_side(checkpoint: Checkpoint, timed: Timed) -> tuple[Timed, ModelRunner]:
    """What runs steps of `STEPS`, with as many adapters as they need."""
    model = load_model(checkpoint, torch.float32, "cpu", timed)
    cache = allocate(checkpoint.config, NUM_PAGES, PAGE, torch.float32, "cpu")
    for numbers in (*cache.keys, *cache.values):
        numbers.normal_()  # pages never written to are one and the same, and always near
    shapes = checkpoint.config.linear_shapes()
    wanted = {name: shape for name, shape in shapes.items() if name.endswith("qkv_proj")}
    count = max(case.adapters for case in STEPS)
    adapters = {str(i): _adapter(str(i), wanted, timed) for i in range(count)}
    return timed, ModelRunner(model, cache, PAGE, adapters.__getitem__, checkpoint.eos_token_ids)


def _adapter(digest: str, shapes: Mapping[str, tuple[int, int]], kernels: Timed) -> ResidentAdapter:
    source, operands = torch.Generator().manual_seed(int(digest)), {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        chosen = torch.randperm(size, generator=source)[: round(KEEP_RATIO * size)].sort().values
        values = torch.randn(len(chosen), generator=source).to(torch.bfloat16) * 1e-3
        indices = chosen.int()
        delta = ElementDelta(layer=name, shape=shape, indices=indices, values=values)
        operands[name] = (kernels.operand(delta),)
    num_bytes = sum(own.num_bytes for (own,) in operands.values())
    return ResidentAdapter(digest, operands, num_bytes)


def measure_sides(
    sides: dict[str, tuple[Timed, ModelRunner]], case: Case
) -> dict[str, dict[str, float]]:
    """Medians of each side's milliseconds: of the step, of each kernel, of everything else."""
    batch = _batch(case)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(REPEATS + 1):
        for name, (timed, runner) in sides.items():
            timed.ms.clear()
            start = time.perf_counter()
            runner.run(batch)
            step = (time.perf_counter() - start) * 1e3
            found[name].append({"step": step, **timed.ms, "else": step - sum(timed.ms.values())})
    return {
        name: {part: median(one[part] for one in own[1:]) for part in own[-1]}
        for name, own in found.items()
    }


def _batch(case: Case) -> ScheduledBatch:
    count, context, new, adapters = case
    pages = -(-context // PAGE)
    entries = []
    for index in range(count):
        prompt = tuple((index * 37 + position * 11) % 40000 + 5 for position in range(context))
        sampling = SamplingParams(max_tokens=99, temperature=0, logprobs=0)
        composition = Composition.linear([(str(index), 1.0)]) if adapters else BASE
        request = GenerationRequest(str(index), prompt, sampling, composition)
        sequence = Sequence.start(request)
        sequence.pages = list(range(index * pages, (index + 1) * pages))
        sequence.num_computed = context - new
        entries.append(ScheduledSequence(sequence, context - new, new))
    return ScheduledBatch(tuple(entries))


if __name__ == "__main__":
    main()

"""A program: an engine warmed up as a server does it, then asked for all kinds of things.

Prints JSON: how many loops had to be compiled for the warm-up, and what the requests found missing.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines import RealEngine, request, run_to_end
from numba.core.dispatcher import Dispatcher
from tiny_adapters import KINDS, make_adapter
from tiny_models import make_tiny_checkpoint

from adapters_store.adapter import ElementDelta, SparseAdapter
from server.adapters.composition import Composition
from server.adapters.fused import FusedWeights
from server.engine.sequence import Mode
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.model.checkpoint import open_checkpoint

LOOPS = "server.kernels.cpu"
SAMPLINGS: Sequence[dict[str, Any]] = (
    {},
    {"temperature": 0.7, "top_p": 0.9, "seed": 1},
    {"temperature": 1.0, "top_k": 5, "repetition_penalty": 1.1, "logprobs": 2, "seed": 2},
)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = make_tiny_checkpoint(Path(directory), "phi3-mini")
        real = RealEngine(open_checkpoint(str(checkpoint)))
        engines = [real, real.with_kernels(Int8CpuKernels())]
        for each in engines:
            each.kernels.warm_up(weight for _, weight in each.model.weights.linears())
        FusedWeights(real.model.fusable_weights(), real.kernels).warm_up()
        compiled = sum(sum(loop.stats.cache_misses.values()) for _, loop in loops())
        before = signatures()
        for each in engines:
            ask_everything(each)
        composition = Composition.linear([(fusable(real), 1.0)])
        run_to_end(
            real.fusing_engine()[0], [request("fused", range(40), composition, mode=Mode.FUSED)]
        )
        print(json.dumps({"compiled": compiled, "missing": sorted(signatures() - before)}))


def ask_everything(real: RealEngine) -> None:
    """Requests of the base and of every kind of adapter, alone and together, long and short."""
    engine, _ = real.engine(max_num_batched_tokens=300)
    layers = [name for name in real.identity.layers if not name.endswith("lm_head")]
    digests = [
        real.publish(make_adapter(real.identity, kind, seed, layers, keep_ratio=0.05))
        for seed, kind in enumerate(KINDS)
    ]
    digests.append(real.publish(narrow(make_adapter(real.identity, "element", 7))))
    compositions = [Composition.linear([])]
    compositions += [Composition.linear([(digest, 0.5)]) for digest in digests]
    compositions += [Composition.linear([(digest, 0.25) for digest in digests])]
    for length in (1, 3, 100):
        for number, composition in enumerate(compositions):
            prompt = [(number + at) % 300 for at in range(length)]
            sampling = SAMPLINGS[number % len(SAMPLINGS)]
            alone = request(f"{length} {number} alone", prompt, composition, **sampling)
            run_to_end(engine, [alone])
        mixed = [
            request(f"{length} {number}", range(length), own, **SAMPLINGS[1])
            for number, own in enumerate(compositions)
        ]
        run_to_end(engine, mixed)


def narrow(adapter: SparseAdapter) -> SparseAdapter:
    """The same with values of two bytes."""
    deltas = (
        replace(delta, values=delta.values.bfloat16())
        for delta in adapter.deltas
        if isinstance(delta, ElementDelta)
    )
    return replace(adapter, deltas=tuple(deltas))


def fusable(real: RealEngine) -> str:
    return real.publish(make_adapter(real.identity, "element", 9))


def loops() -> Iterator[tuple[str, Dispatcher]]:
    for module in [m for name, m in sys.modules.items() if name.startswith(LOOPS)]:
        for found in vars(module).values():
            if isinstance(found, Dispatcher):
                yield f"{found.py_func.__module__}.{found.py_func.__name__}", found


def signatures() -> set[str]:
    return {f"{name} {types}" for name, loop in loops() for types in loop.signatures}


if __name__ == "__main__":
    main()

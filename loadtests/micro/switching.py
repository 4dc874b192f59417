"""Changing which adapter is in the weights, on Phi-3-mini's qkv_proj: ours and PEFT's.

    python -m loadtests.micro.switching [--layers 4] [--keep-ratios 0.001 0.01 0.1] [--width 3072]

A switch takes one adapter out and puts another in, in the layout that each side multiplies: ours in
oneDNN's packs, so that the next step can be computed at once; PEFT's unmerge and merge in plain
tensors. Layers are measured one by one, sides in turn; times are summed over layers. The limit is
what memory allows: a switch reads a line of it three times for each entry and writes it twice,
but never more than the whole weight. The last line is JSON.
"""

import argparse
import json
import platform
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, ShiraConfig, get_peft_model
from peft.config import PeftConfig
from rich.console import Console
from rich.table import Table

from adapters_store.adapter import ElementDelta, SparseAdapter
from loadtests.micro.timing import Limits, measure_limits, medians
from server.adapters.composition import Composition
from server.adapters.delta import make_resident
from server.adapters.fused import FusedWeights
from server.kernels.cpu.kernels import CpuKernels

LAYER = "model.layers.0.self_attn.qkv_proj"
RANK = 32
LINE_BYTES = 64
TOUCHES = 5  # of a line for each entry: read and written to undo, read to save, then to write
REPEATS = 5

Switch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One shape and one keep ratio."""

    shape: tuple[int, int]
    keep_ratio: float

    @property
    def entries(self) -> int:
        return int(self.shape[0] * self.shape[1] * self.keep_ratio)

    def least_ms(self, limits: Limits) -> float:
        lines = min(LINE_BYTES * self.entries, 4 * self.shape[0] * self.shape[1])
        return TOUCHES * lines / limits.bytes_per_ms


def main() -> None:
    arguments = _arguments()
    limits = measure_limits()
    shape = (3 * arguments.width, arguments.width)
    table = Table(
        "kept", "ours, ms", "limit, ms", "PEFT SHiRA, ms", f"PEFT LoRA {RANK}, ms", "ratios"
    )
    described = {}
    for ratio in arguments.keep_ratios:
        case = Case(shape, ratio)
        times = _times(case, arguments.layers)
        least = case.least_ms(limits) * arguments.layers
        ratios = {name: times[name] / times["ours"] for name in ("shira", "lora")}
        numbers = (times["ours"], least, times["shira"], times["lora"])
        cells = [f"{ratio:g}", *(f"{number:.1f}" for number in numbers)]
        table.add_row(*cells, " ".join(f"{name} {each:.1f}x" for name, each in ratios.items()))
        described[f"{ratio:g}"] = {**times, "limit": least, "entries": case.entries}
    Console().print(table)
    machine = {"processor": platform.processor(), "torch": torch.__version__}
    sizes = {"layers": arguments.layers, "shape": shape, "threads": torch.get_num_threads()}
    print(json.dumps({**machine, **sizes, "milliseconds": described}))


def _times(case: Case, layers: int) -> Mapping[str, float]:
    """Milliseconds of each side's switch, over all layers."""
    totals: dict[str, float] = defaultdict(float)
    for layer in range(layers):
        sides = {
            "ours": _ours(case, layer),
            "shira": _peft(case, ShiraConfig(r=_shira_rank(case), init_weights=False)),
            "lora": _peft(case, LoraConfig(r=RANK)),
        }
        with torch.inference_mode():
            for name, ms in medians(sides, REPEATS).items():
                totals[name] += ms
    return dict(totals)


def _ours(case: Case, layer: int) -> Switch:
    kernels = CpuKernels()
    weight = kernels.pack(torch.randn(case.shape))
    fused = FusedWeights({LAYER: weight}, kernels)
    fused.warm_up()
    adapters = [_adapter(case, 2 * layer + each) for each in range(2)]
    residents = [make_resident(adapter.digest, adapter, kernels) for adapter in adapters]
    compositions = [Composition.linear([(adapter.digest, 1.0)]) for adapter in adapters]
    turn = 0

    def switch() -> None:
        nonlocal turn
        turn = 1 - turn
        fused.switch(compositions[turn], [(residents[turn], 1.0)])

    return switch


def _adapter(case: Case, seed: int) -> SparseAdapter:
    source = np.random.Generator(np.random.SFC64(seed))
    drawn = source.integers(0, case.shape[0] * case.shape[1], case.entries, np.int32)
    places = torch.from_numpy(np.unique(drawn))
    values = torch.from_numpy(source.standard_normal(len(places), np.float32))
    delta = ElementDelta(layer=LAYER, shape=case.shape, indices=places, values=values)
    return SparseAdapter("any", {LAYER: ""}, (delta,))


def _shira_rank(case: Case) -> int:
    """The rank that gives SHiRA as many entries: it takes rank * (in + out)."""
    return max(1, round(case.entries / sum(case.shape)))


class _Layer(torch.nn.Module):
    """A module of one linear layer, for PEFT to find."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.qkv_proj = torch.nn.Linear(shape[1], shape[0], bias=False)


def _peft(case: Case, config: PeftConfig) -> Switch:
    config.target_modules = ["qkv_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bare module has no configuration of its own
        model = get_peft_model(_Layer(case.shape), config, "0")
        model.add_adapter("1", config)
    turn = 0

    def switch() -> None:
        nonlocal turn
        turn = 1 - turn
        model.unmerge_adapter()
        model.merge_adapter([str(turn)])

    model.merge_adapter([str(turn)])
    return switch


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--keep-ratios", type=float, nargs="+", default=[0.001, 0.01, 0.1])
    parser.add_argument("--width", type=int, default=3072, help="of the layer: [3 width, width]")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The cost model of `intarsia plan` against steps that were computed here.

    python -m loadtests.micro.plan [--checkpoint data/demo-base]

Decode steps of the demo base, without adapters and with 32 resident ones, each sequence naming its
own, 1 % of qkv. Bandwidth and arithmetic are measured as `intarsia plan --device cpu` does, before
and after. `measured / predicted` is what the forecast leaves out; it is 1 at least where the
forecast, which is a bound, holds and nothing else ran. `rest` is all but products with their deltas
and attention. The last line is JSON.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from loadtests.micro.decode_step import KEEP_RATIO, Case, make_side, measure_sides
from server.kernels.cpu.kernels import CpuKernels
from server.model.checkpoint import open_checkpoint
from server.plan.adapters import AdapterShape
from server.plan.devices import (
    Device,
    cpu_device,
    measure_bandwidth,
    measure_flops,
    this_memory,
)
from server.plan.models import CONFIG_FILE, ModelShape, read_shape
from server.plan.roofline import forecast
from server.plan.workload import Workload

CONTEXT, RESIDENT = 64, 32
CASES = tuple(Case(n, CONTEXT, adapters=a) for a in (0, RESIDENT) for n in (1, 8, 32))
# Kernels of the plan and operations of `Kernels` that are neither products nor attention.
REST = {
    *("embed", "norms", "rope + cache write", "silu gate", "sampling"),
    *("rms_norm", "rotate_and_cache", "silu_gate", "summarize", "else"),
}


class Compared(NamedTuple):
    """Milliseconds of one step: of its parts, and altogether as `step`."""

    case: Case
    measured: Mapping[str, float]
    predicted: Mapping[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """measured / predicted."""
        return {part: self.measured[part] / ms for part, ms in self.predicted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("data/demo-base"))
    directory = parser.parse_args().checkpoint
    device, measured = measure(directory)
    model = read_shape(directory / CONFIG_FILE)
    rows = [Compared(case, ms, predict(model, device, case)) for case, ms in measured.items()]
    Console().print(_table(rows))
    machine = {"bandwidth": device.bandwidth, "flops": device.matrix_flops["float32"]}
    shown = [{"case": row.case._asdict(), "ms": row.measured, "ratios": row.ratios} for row in rows]
    print(json.dumps({**machine, "steps": shown}))


def measure(directory: Path) -> tuple[Device, dict[Case, dict[str, float]]]:
    """This machine at its best, and the parts of each case in milliseconds."""
    before = measure_bandwidth(), measure_flops()
    sides = {"cpu": make_side(open_checkpoint(str(directory)), CpuKernels())}
    measured = {case: _parts(measure_sides(sides, case)["cpu"]) for case in CASES}
    bandwidth, flops = map(max, before, (measure_bandwidth(), measure_flops()))
    return cpu_device(bandwidth, flops, this_memory()), measured


def predict(model: ModelShape, device: Device, case: Case) -> dict[str, float]:
    """The same parts, foretold."""
    adapter = AdapterShape("element", KEEP_RATIO)
    adapters, batch, context = case.adapters, case.sequences, case.context
    workload = Workload(model, device, adapter, adapters, batch, context, "float32")
    found = forecast(workload, "batched")
    assert found is not None, "batched is always served"
    return _parts({kernel.cost.name: kernel.seconds * 1e3 for kernel in found.kernels})


def _parts(ms: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds by part, of kernels as the plan or the interface calls them."""
    kernels = {name: own for name, own in ms.items() if name != "step"}
    parts = {"linear": 0.0, "attention": 0.0, "rest": 0.0, "step": sum(kernels.values())}
    for name, own in kernels.items():
        parts["rest" if name in REST else name if name == "attention" else "linear"] += own
    return parts


def _table(rows: Sequence[Compared]) -> Table:
    columns = ("sequences", "adapters", "measured, ms", "predicted, ms", "measured / predicted")
    table = Table(*columns, "linear", "attention", "rest")
    for row in rows:
        ms = (f"{own['step']:.1f}" for own in (row.measured, row.predicted))
        ratios = (f"{row.ratios[part]:.2f}" for part in ("step", "linear", "attention", "rest"))
        table.add_row(str(row.case.sequences), str(row.case.adapters), *ms, *ratios)
    return table


if __name__ == "__main__":
    main()

"""The cost model of `intarsia plan` against steps that were computed here.

    python -m loadtests.micro.plan [--checkpoint data/demo-base]

Decode steps of the demo base in fp32 and in int8, without adapters and with 32 resident ones, each
sequence naming its own, 1 % of qkv. Bandwidth and arithmetic are measured as `intarsia plan
--device cpu` does, before and after. `rest` is all but products with their deltas and attention,
`limit` what the device's limits would allow. Where a step takes more than FACTOR times as long as
foretold, or less than its inverse, the exit status is 1: if nothing else ran, the model is wrong.
The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from loadtests.micro.decode_step import (
    KEEP_RATIO,
    Case,
    Timed,
    TimedWhole,
    make_side,
    measure_sides,
)
from server.kernels.cpu.int8.kernels import Int8CpuKernels
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
from server.plan.workload import Quantization, Workload

FACTOR = 1.25
CONTEXT, RESIDENT = 64, 32
KERNELS: Mapping[Quantization, Callable[[], CpuKernels]] = {
    "none": CpuKernels,
    "int8": Int8CpuKernels,
}
CASES = tuple(Case(n, CONTEXT, adapters=a) for a in (0, RESIDENT) for n in (1, 8, 32))
# Kernels of the plan and operations of `Kernels` that are neither products nor attention.
REST = {
    *("embed", "norms", "rope + cache write", "silu gate", "sampling"),
    *("rms_norm", "rotate_and_cache", "silu_gate", "summarize", "else"),
}


Measured = Mapping[Quantization, Mapping[Case, Mapping[str, float]]]  # milliseconds of parts


class Compared(NamedTuple):
    """Milliseconds of one step: of its parts, and altogether as `step`; at best, as `limit`."""

    quantization: Quantization
    case: Case
    measured: Mapping[str, float]
    predicted: Mapping[str, float]
    limit: float

    @property
    def ratios(self) -> dict[str, float]:
        """measured / predicted."""
        return {part: self.measured[part] / ms for part, ms in self.predicted.items()}

    @property
    def holds(self) -> bool:
        """Whether the whole step took about as long as foretold."""
        return 1 / FACTOR <= self.ratios["step"] <= FACTOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("data/demo-base"))
    directory = parser.parse_args().checkpoint
    device, measured = measure(directory)
    rows = compare(read_shape(directory / CONFIG_FILE), device, measured)
    Console().print(_table(rows))
    machine = {"bandwidth": device.bandwidth, "flops": device.matrix_flops["float32"]}
    print(json.dumps({**machine, "factor": FACTOR, "steps": [_json(row) for row in rows]}))
    sys.exit(0 if all(row.holds for row in rows) else 1)


def measure(directory: Path) -> tuple[Device, Measured]:
    """This machine at its best, and the parts of each case in milliseconds."""
    before = measure_bandwidth(), measure_flops()
    measured = {quantization: _steps(directory, quantization) for quantization in KERNELS}
    bandwidth, flops = map(max, before, (measure_bandwidth(), measure_flops()))
    return cpu_device(bandwidth, flops, this_memory()), measured


def _steps(directory: Path, quantization: Quantization) -> dict[Case, dict[str, float]]:
    checkpoint, kernels = open_checkpoint(str(directory)), KERNELS[quantization]()
    kinds = {"served": TimedWhole(kernels), "parts": Timed(kernels)}
    sides = {name: make_side(checkpoint, timed) for name, timed in kinds.items()}
    found = {case: measure_sides(sides, case) for case in CASES}
    return {
        case: {**_parts(own["parts"]), "step": own["served"]["step"]} for case, own in found.items()
    }


def compare(model: ModelShape, device: Device, measured: Measured) -> list[Compared]:
    """What was measured beside what is foretold of `device`."""
    return [
        Compared(
            quantization,
            case,
            ms,
            predict(model, device, case, quantization),
            predict(model, device.at_limit, case, quantization)["step"],
        )
        for quantization, steps in measured.items()
        for case, ms in steps.items()
    ]


def predict(
    model: ModelShape, device: Device, case: Case, quantization: Quantization
) -> dict[str, float]:
    """The same parts, foretold."""
    adapter = AdapterShape("element", KEEP_RATIO)
    adapters, batch, context = case.adapters, case.sequences, case.context
    workload = Workload(model, device, adapter, adapters, batch, context, "float32", quantization)
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
    columns = (
        "quantization",
        "sequences",
        "adapters",
        "measured, ms",
        "foretold",
        "limit",
        "ratio",
    )
    table = Table(*columns, "linear", "attention", "rest", f"within {FACTOR:g} x")
    for row in rows:
        ms = (f"{own:.1f}" for own in (row.measured["step"], row.predicted["step"], row.limit))
        ratios = (f"{row.ratios[part]:.2f}" for part in ("step", "linear", "attention", "rest"))
        case = (row.quantization, str(row.case.sequences), str(row.case.adapters))
        table.add_row(*case, *ms, *ratios, "yes" if row.holds else "NO")
    return table


def _json(row: Compared) -> dict[str, Any]:
    return {
        "quantization": row.quantization,
        "case": row.case._asdict(),
        "ms": row.measured,
        "foretold": row.predicted,
        "limit": row.limit,
        "ratios": row.ratios,
        "holds": row.holds,
    }


if __name__ == "__main__":
    main()

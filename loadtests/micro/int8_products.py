"""Products with a base of one byte to a weight, beside fp32's and the machine's limits.

    python -m loadtests.micro.int8_products

For the demo base's and Phi-3-mini's shapes. `limit` is the time that the bytes read or the
multiplications of bytes must take at least; the latter are taken to be four times as fast as those
of fp32, as AVX-512 VNNI's are. The last line is JSON.
"""

import json
import platform
from collections.abc import Iterator
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from loadtests.micro.timing import Limits, measure_limits, medians
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.kernels import CpuKernels

SHAPES = {
    "qkv": (960, 576),
    "o": (576, 576),
    "gate_up": (3072, 576),
    "down": (576, 1536),
    "lm_head": (49152, 576),
    "Phi-3-mini qkv": (9216, 3072),
    "Phi-3-mini o": (3072, 3072),
    "Phi-3-mini gate_up": (16384, 3072),
    "Phi-3-mini down": (3072, 8192),
}
COUNTS = (1, 2, 8, 32, 64)
SPEEDUP = 4  # of bytes over fp32, in arithmetic
Row = tuple[str, dict[str, float], float]  # what, ms of each side, least ms of int8


def main() -> None:
    limits = measure_limits()
    with torch.inference_mode():
        rows = list(_rows(limits))
    table = Table(
        "product", "int8, ms", "fp32, ms", "fp32 / int8", "limit, ms", "share of the limit"
    )
    for name, ms, least in rows:
        cells = (f"{cell:.3f}" for cell in (ms["int8"], ms["fp32"]))
        faster, share = f"{ms['fp32'] / ms['int8']:.2f}", f"{least / ms['int8']:.0%}"
        table.add_row(name, *cells, faster, f"{least:.3f}", share)
    Console().print(table)
    described = {name: {**ms, "limit": least} for name, ms, least in rows}
    machine = {"processor": platform.processor(), "torch": torch.__version__}
    found = {"gb_per_s": limits.bytes_per_ms / 1e6, "gflop_per_s": limits.flops_per_ms / 1e6}
    threads = {"threads": torch.get_num_threads()}
    print(json.dumps({**machine, **threads, **found, "milliseconds": described}))


def _rows(limits: Limits) -> Iterator[Row]:
    kernels = {"int8": Int8CpuKernels(), "fp32": CpuKernels()}
    for name, (out, width) in SHAPES.items():
        weight = torch.randn(out, width)
        packed = {side: own.pack(weight) for side, own in kernels.items()}
        for rows in COUNTS:
            x = torch.randn(rows, width)
            calls = {
                side: partial(own.linear, x, packed[side], None) for side, own in kernels.items()
            }
            flops = 2 * rows * weight.numel() / SPEEDUP
            yield (
                f"{name}, {rows} rows",
                medians(calls),
                limits.least_ms(packed["int8"].numel(), flops),
            )


if __name__ == "__main__":
    main()

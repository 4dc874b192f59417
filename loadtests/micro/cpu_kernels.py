"""Every CPU kernel against plain torch and against this machine's limits, all in one run.

    python -m loadtests.micro.cpu_kernels

Shapes are those of the demo base. `limit` is the time that the bytes read or the arithmetic must
take at least; of element deltas also that of as many entries of one delta that has long rows and
lies in the cache.
The last line is JSON.
"""

import json
import platform
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from adapters_store.adapter import BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from loadtests.micro.timing import Limits, measure_limits, medians
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import AttentionBatch, DeltaBatch, Kernels, Operand
from server.kernels.reference import ReferenceKernels

LINEARS = {"qkv": (960, 576), "o": (576, 576), "gate_up": (3072, 576), "down": (576, 1536)}
HEADS, KV_HEADS, HEAD_DIM, PAGE = 9, 3, 64, 32
ADAPTERS = 32
LONG_ROWS = 0.5  # keep ratio of the delta by which the time of an entry is told
KINDS: dict[str, Callable[[], Kernels]] = {
    "cpu": lambda: CpuKernels(),
    "reference": lambda: ReferenceKernels("cpu"),
}
Row = tuple[str, dict[str, float], float]  # what, ms of each side, least ms


def main() -> None:
    limits = measure_limits()
    sides: dict[str, Kernels] = {name: make() for name, make in KINDS.items()}
    with torch.inference_mode():
        rows = [*_products(sides, limits), *_attention(sides, limits), *_deltas(sides, limits)]
    table = Table("kernel", "cpu, ms", "reference, ms", "limit, ms", "share of the limit")
    for name, ms, least in rows:
        cells = (ms["cpu"], ms["reference"], least)
        table.add_row(name, *(f"{cell:.3f}" for cell in cells), f"{least / ms['cpu']:.0%}")
    Console().print(table)
    described = {name: {**ms, "limit": least} for name, ms, least in rows}
    machine = {"processor": platform.processor(), "torch": torch.__version__}
    threads = {"threads": torch.get_num_threads(), "gb_per_s": limits.bytes_per_ms / 1e6}
    print(json.dumps({**machine, **threads, "milliseconds": described}))


def _products(sides: dict[str, Kernels], limits: Limits) -> Iterator[Row]:
    for name, (out, width) in LINEARS.items():
        weight = torch.randn(out, width)
        packed = {side: kernels.pack(weight) for side, kernels in sides.items()}
        for rows in (1, 8, 32, 512):
            x = torch.randn(rows, width)
            calls = {
                side: _multiplying(kernels, x, packed[side], None)
                for side, kernels in sides.items()
            }
            least = limits.least_ms(weight.nbytes, 2 * rows * weight.numel())
            yield f"{name}, {rows} rows", medians(calls), least


def _attention(sides: dict[str, Kernels], limits: Limits) -> Iterator[Row]:
    for count, length, new in ((1, 512, 1), (8, 512, 1), (32, 64, 1), (32, 512, 1), (1, 512, 512)):
        pages = -(-length // PAGE)
        keys = torch.randn(count * pages, KV_HEADS, HEAD_DIM, PAGE).permute(0, 3, 1, 2)
        values = torch.randn(count * pages, KV_HEADS, PAGE, HEAD_DIM).permute(0, 2, 1, 3)
        batch = AttentionBatch(
            query_offsets=list(accumulate([new] * count, initial=0)),
            context_lengths=[length] * count,
            block_tables=torch.randperm(count * pages).view(count, pages),
            slots=torch.empty(0, dtype=torch.int64),
        )
        query = torch.randn(count * new, HEADS, HEAD_DIM)
        calls = {side: _attending(k, query, keys, values, batch) for side, k in sides.items()}
        seen = count * sum(range(length - new + 1, length + 1))
        num_bytes = 2 * 4 * count * length * KV_HEADS * HEAD_DIM
        least = limits.least_ms(num_bytes, 4 * seen * HEADS * HEAD_DIM)
        yield f"attention, {count} x {new} over {length}", medians(calls), least


def _attending(
    kernels: Kernels, query: Tensor, keys: Tensor, values: Tensor, batch: AttentionBatch
) -> Callable[[], Tensor]:
    return lambda: kernels.attention(query, keys, values, batch, scale=0.125, sliding_window=None)


def _deltas(sides: dict[str, Kernels], limits: Limits) -> Iterator[Row]:
    """32 tokens, each another adapter's; the base product is taken off."""
    makers = {
        "element 0.01": lambda seed: _element(0.01, seed),
        "element 0.1": lambda seed: _element(0.1, seed),
        "block 16x16 0.1": lambda seed: _block(0.1, seed),
        "low rank 32": _low_rank,
    }
    weight, x = torch.zeros(LINEARS["qkv"]), torch.randn(ADAPTERS, LINEARS["qkv"][1])
    packed = {side: kernels.pack(weight) for side, kernels in sides.items()}
    long_rows = _element(LONG_ROWS, 0)
    gathered = _mixed(sides["cpu"], x, packed["cpu"], [sides["cpu"].operand(long_rows)] * ADAPTERS)
    for name, make in makers.items():
        deltas = [make(seed) for seed in range(ADAPTERS)]
        calls: dict[str, Callable[[], object]] = {"gathered": gathered}
        for side, kernels in sides.items():
            operands = [kernels.operand(delta) for delta in deltas]
            calls[f"{side}, base"] = _multiplying(kernels, x, packed[side], None)
            calls[side] = _mixed(kernels, x, packed[side], operands)
            if side == "cpu":
                num_bytes = sum(operand.num_bytes for operand in operands)
        ms = medians(calls)
        share = _num_entries(deltas[0]) / _num_entries(long_rows)
        least = max(limits.least_ms(num_bytes, 0), share * (ms["gathered"] - ms["cpu, base"]))
        yield f"deltas, {name}", {side: ms[side] - ms[f"{side}, base"] for side in sides}, least


def _num_entries(delta: WeightDelta) -> int:
    """Entries whose activations are gathered one by one."""
    return len(delta.indices) if isinstance(delta, ElementDelta) else 0


def _mixed(
    kernels: Kernels, x: Tensor, weight: Tensor, operands: list[Operand]
) -> Callable[[], Tensor]:
    everyone = torch.arange(ADAPTERS)
    offsets = list(range(ADAPTERS + 1))
    batch = DeltaBatch([[one] for one in operands], offsets, everyone, torch.ones(ADAPTERS))
    return _multiplying(kernels, x, weight, batch)


def _multiplying(
    kernels: Kernels, x: Tensor, weight: Tensor, deltas: DeltaBatch | None
) -> Callable[[], Tensor]:
    return lambda: kernels.linear(x, weight, deltas)


def _element(keep_ratio: float, seed: int) -> WeightDelta:
    shape, source = LINEARS["qkv"], torch.Generator().manual_seed(seed)
    count = int(keep_ratio * shape[0] * shape[1])
    indices = torch.randperm(shape[0] * shape[1], generator=source)[:count].sort().values
    values = torch.randn(count, generator=source).to(torch.bfloat16)
    return ElementDelta(layer="qkv", shape=shape, indices=indices.int(), values=values)


def _block(keep_ratio: float, seed: int) -> WeightDelta:
    shape, source = LINEARS["qkv"], torch.Generator().manual_seed(seed)
    tiles = shape[0] * shape[1] // 256
    kept = torch.randperm(tiles, generator=source)[: int(keep_ratio * tiles)].sort().values.int()
    values = torch.randn(len(kept), 16, 16, generator=source).to(torch.bfloat16)
    return BlockDelta(layer="qkv", shape=shape, block=(16, 16), block_index=kept, values=values)


def _low_rank(seed: int) -> WeightDelta:
    (out, width), source = LINEARS["qkv"], torch.Generator().manual_seed(seed)
    a = torch.randn(32, width, generator=source).to(torch.bfloat16)
    b = torch.randn(out, 32, generator=source).to(torch.bfloat16)
    return LowRankDelta(layer="qkv", shape=(out, width), a=a, b=b)


if __name__ == "__main__":
    main()

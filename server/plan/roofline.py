"""Counts as times: what a kernel needs over how fast a device with these kernels gives it.

With an efficiency of 1 that is a lower bound of each kernel, and so a forecast that a real step can
only exceed.
"""

from dataclasses import dataclass
from typing import Literal

from server.plan.devices import Device
from server.plan.efficiency import Efficiency
from server.plan.kernels import KernelCost, step_kernels
from server.plan.switching import switch_cost
from server.plan.workload import Workload

Mode = Literal["base", "batched", "fused"]
MODES: tuple[Mode, ...] = ("base", "batched", "fused")
TURN_STEPS = 16  # that an adapter stays in the weights while others wait


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A kernel's cost, the seconds that it takes, and what they are spent on."""

    cost: KernelCost
    seconds: float
    bound: str  # memory, products, vectors, gathers, or starts: all that is beside them


@dataclass(frozen=True, slots=True)
class Forecast:
    """Decoding in one mode. In fused mode kernels are those of an adapter's step and, where there
    are several adapters, of a switch."""

    mode: Mode
    kernels: tuple[KernelTime, ...]
    tokens_per_second: float  # of all sequences together
    seconds_per_token: float  # of one sequence, between two of its tokens


def kernel_time(device: Device, cost: KernelCost, dtype: str) -> KernelTime:
    """seconds = memory's and the longest computation's, or the longer where they overlap, and
    those beside them.

    memory = bytes / bandwidth; computations: products' operations / their peak in `dtype` or of
    bytes, vectors' operations / their peak, numbers read by index / their rate; each over the share
    that is reached. Beside: starts, rows and choices, each times its seconds.
    """
    reached = device.efficiency
    share = reached.int8_bandwidth if cost.int8_flops else reached.bandwidth
    memory = cost.num_bytes / (device.bandwidth * share)
    computed = _computations(device, cost, dtype)
    beside = _beside(reached, cost)
    longest = max(computed.values())
    work = max(memory, longest) if reached.overlaps else memory + longest
    spent = {"memory": memory, **computed, "starts": beside}
    return KernelTime(cost, work + beside, max(spent, key=spent.__getitem__))


def _computations(device: Device, cost: KernelCost, dtype: str) -> dict[str, float]:
    """Seconds of each kind of operation, one or none of which a kernel has much of."""
    reached, peaks = device.efficiency, device.matrix_flops
    products = cost.matrix_flops / (peaks[dtype] * reached.products)
    if cost.int8_flops:
        products += cost.int8_flops / (peaks["int8"] * reached.int8_products)
    return {
        "products": products,
        "vectors": cost.vector_flops / (device.vector_flops * reached.vectors),
        "gathers": cost.gathers / (device.gathers * reached.gathers),
    }


def _beside(reached: Efficiency, cost: KernelCost) -> float:
    """Seconds that pass whatever the device can do."""
    return (
        cost.starts * reached.start_seconds
        + cost.rows * reached.row_seconds
        + cost.choices * reached.choice_seconds
    )


def forecast(workload: Workload, mode: Mode) -> Forecast | None:
    """Decoding in `mode`; None where the server would not fuse such adapters."""
    if mode == "fused" and workload.adapters:
        return _fused(workload) if workload.can_fuse else None
    distinct = workload.distinct if mode == "batched" else 0
    kernels = _step(workload, workload.batch, distinct)
    seconds = _sum(kernels)
    return Forecast(mode, kernels, workload.batch / seconds, seconds)


def _fused(workload: Workload) -> Forecast:
    """Adapters take turns of 16 steps, each computing its own sequences alone.

    Of d adapters, batch mod d have one sequence more than batch // d. All have had a turn after
    sum of (16 * step + switch) seconds, in which every sequence gains 16 tokens. One adapter stays.
    """
    d = workload.distinct
    own, rest = divmod(workload.batch, d)
    groups = {own + 1: rest, own: d - rest}
    switch = _time(workload, switch_cost(workload)) if d > 1 else None
    cycle = sum(count * TURN_STEPS * _sum(_step(workload, n, 0)) for n, count in groups.items())
    cycle += d * switch.seconds if switch else 0.0
    shown = _step(workload, -(-workload.batch // d), 0)
    kernels = (*shown, switch) if switch else shown
    return Forecast("fused", kernels, workload.batch * TURN_STEPS / cycle, cycle / TURN_STEPS)


def _step(workload: Workload, tokens: int, distinct: int) -> tuple[KernelTime, ...]:
    costs = step_kernels(workload, tokens, distinct)
    return tuple(_time(workload, cost) for cost in costs)


def _time(workload: Workload, cost: KernelCost) -> KernelTime:
    return kernel_time(workload.device, cost, workload.dtype)


def _sum(kernels: tuple[KernelTime, ...]) -> float:
    return sum(kernel.seconds for kernel in kernels)

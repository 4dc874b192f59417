"""Plans told: as tables for people, as JSON for programs. Decides nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from server.plan.kernels import KernelCost
from server.plan.plan import CURVE, Plan
from server.plan.roofline import Forecast, KernelTime
from server.plan.workspace import workspace_parts

GIB = 1 << 30
NONE = "-"


def say(plans: Sequence[Plan], console: Console, with_kernels: bool) -> None:
    """Print memory, forecasts and curve of the `plans`, which differ in their devices."""
    kernels = [table for plan in plans for table in _kernels(plan)] if with_kernels else []
    for index, table in enumerate((_memory(plans), *kernels, _forecasts(plans), _curve(plans))):
        console.print(*([""] if index else []), table, sep="\n")


def _table(*columns: str, title: str, words: int = 1) -> Table:
    """The first `words` columns are text, others numbers."""
    table = Table(box=None, title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right", no_wrap=True)
    return table


def _memory(plans: Sequence[Plan]) -> Table:
    names = [plan.workload.device.name for plan in plans]
    table = _table("GiB", *names, title="memory")
    for part in plans[0].memory.parts:
        table.add_row(part.replace("_", " "), *(_gib(p.memory.parts[part]) for p in plans))
    table.add_row("remains", *(_gib(plan.memory.remains) for plan in plans), end_section=True)
    table.add_row("largest batch", *(f"{plan.largest_batch:,}" for plan in plans))
    table.add_row("adapters that fit", *(f"{plan.most_adapters:,}" for plan in plans))
    return table


def _kernels(plan: Plan) -> Iterator[Table]:
    for found in plan.forecasts.values():
        if found is None or (found.mode == "base" and plan.workload.adapters):
            continue  # the batched step has all that the base's has
        title = f"{plan.workload.device.name}, {found.mode}: one step"
        table = _table("kernel", "bound by", "MB", "GFLOP", "ms", title=title, words=2)
        for kernel in found.kernels:
            cost = kernel.cost
            flops = cost.matrix_flops + cost.int8_flops + cost.vector_flops
            numbers = (f"{cost.num_bytes / 1e6:,.1f}", f"{flops / 1e9:,.2f}", _ms(kernel.seconds))
            table.add_row(cost.name, kernel.bound, *numbers)
        yield table


def _forecasts(plans: Sequence[Plan]) -> Table:
    columns = ("ms per token", "tok/s", "limit, tok/s")
    table = _table("device", "mode", *columns, title="decoding", words=2)
    for plan in plans:
        for mode, found in plan.forecasts.items():
            table.add_row(plan.workload.device.name, mode, *_rates(found, plan.limits[mode]))
    return table


def _curve(plans: Sequence[Plan]) -> Table:
    title = "tok/s by number of adapters"
    table = _table("device", "mode", *map(str, CURVE), title=title, words=2)
    for plan in plans:
        for mode, rates in plan.curve.items():
            shown = (NONE if rate is None else f"{rate:,.0f}" for rate in rates)
            table.add_row(plan.workload.device.name, mode, *shown)
    return table


def _rates(found: Forecast | None, limit: Forecast | None) -> tuple[str, ...]:
    if found is None or limit is None:
        return NONE, NONE, NONE
    rates = (f"{own.tokens_per_second:,.0f}" for own in (found, limit))
    return _ms(found.seconds_per_token), *rates


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def as_json(plan: Plan) -> dict[str, Any]:
    """All of a plan; bytes, seconds, and operations of a whole step."""
    workload, memory = plan.workload, plan.memory
    return {
        "device": workload.device.name,
        "parameters": workload.model.parameters,
        "memory": {
            **memory.parts,
            "remains": memory.remains,
            "total": workload.device.memory_bytes,
        },
        "workspace": dict(workspace_parts(workload)),
        "bytes_per_adapter": plan.bytes_per_adapter,
        "largest_batch": plan.largest_batch,
        "most_adapters": plan.most_adapters,
        "settings": {
            "device_cache_bytes": memory.kv_pages + memory.adapters + memory.remains,
            "max_adapter_bytes_device": max(1, memory.adapters),  # 0 is none that it takes
            "max_num_seqs": workload.batch,
            "max_model_len": workload.context,
            "max_num_batched_tokens": workload.step_tokens,
            "page_size": workload.page_size,
        },
        "forecasts": {mode: found and _forecast(found) for mode, found in plan.forecasts.items()},
        "limits": {mode: own and own.tokens_per_second for mode, own in plan.limits.items()},
        "curve": {"adapters": list(CURVE), **{m: list(own) for m, own in plan.curve.items()}},
    }


def _forecast(found: Forecast) -> dict[str, Any]:
    return {
        "tokens_per_second": found.tokens_per_second,
        "seconds_per_token": found.seconds_per_token,
        "kernels": [_kernel(kernel) for kernel in found.kernels],
    }


def _kernel(kernel: KernelTime) -> dict[str, Any]:
    cost: KernelCost = kernel.cost
    return {
        "name": cost.name,
        "bytes": cost.num_bytes,
        "matrix_flops": cost.matrix_flops,
        "int8_flops": cost.int8_flops,
        "vector_flops": cost.vector_flops,
        "gathers": cost.gathers,
        "seconds": kernel.seconds,
        "bound": kernel.bound,
    }

"""A whole plan: memory, limits and forecasts of one workload, and its curve over adapters."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from server.plan.capacity import largest_batch, most_adapters, require_fit
from server.plan.memory import Layout, adapter_bytes
from server.plan.roofline import MODES, Forecast, Mode, forecast
from server.plan.workload import Workload

CURVE = (1, 2, 4, 8, 16, 32, 64, 128)  # adapters


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found out about `workload`, which fits."""

    workload: Workload
    memory: Layout
    bytes_per_adapter: int
    largest_batch: int  # beside these adapters
    most_adapters: int  # beside these sequences
    forecasts: Mapping[Mode, Forecast | None]
    limits: Mapping[Mode, Forecast | None]  # the same by kernels that reach the device's limits
    curve: Mapping[Mode, tuple[float | None, ...]]  # tokens per second, for CURVE adapters


def make_plan(workload: Workload) -> Plan:
    """Raises DoesNotFit."""
    memory = require_fit(workload)
    at_limit = replace(workload, device=workload.device.at_limit)
    most = most_adapters(workload)
    return Plan(
        workload=workload,
        memory=memory,
        bytes_per_adapter=adapter_bytes(workload),
        largest_batch=largest_batch(workload),
        most_adapters=most,
        forecasts={mode: forecast(workload, mode) for mode in MODES},
        limits={mode: forecast(at_limit, mode) for mode in MODES},
        curve={mode: tuple(_rate(workload, mode, n, most) for n in CURVE) for mode in MODES},
    )


def _rate(workload: Workload, mode: Mode, adapters: int, most: int) -> float | None:
    """Tokens per second; None where so many adapters do not fit, or such never fuse."""
    if mode != "base" and adapters > most:
        return None
    found = forecast(replace(workload, adapters=adapters), mode)
    return found.tokens_per_second if found else None

"""How much would fit: the most sequences, the most adapters, or the refusal of what does not."""

from bisect import bisect_right
from dataclasses import replace

from server.plan.errors import DoesNotFit
from server.plan.memory import Layout, adapter_bytes, plan_memory, sequence_bytes
from server.plan.workload import Workload


def fits(workload: Workload) -> bool:
    return plan_memory(workload).remains >= 0


def largest_batch(workload: Workload) -> int:
    """Most sequences of this context beside these adapters; 0 if not even one fits."""
    most = workload.device.memory_bytes // sequence_bytes(workload)
    batches = range(1, most + 1)
    return bisect_right(batches, False, key=lambda b: not fits(replace(workload, batch=b)))


def most_adapters(workload: Workload) -> int:
    """Most adapters beside these sequences: what the others leave / bytes of one, rounded down."""
    layout = plan_memory(replace(workload, adapters=0))
    return max(0, layout.remains) // max(1, adapter_bytes(workload))


def require_fit(workload: Workload) -> Layout:
    """The layout. Raises DoesNotFit."""
    layout = plan_memory(workload)
    if layout.remains < 0:
        device = workload.device
        batch, adapters = largest_batch(workload), most_adapters(workload)
        raise DoesNotFit(device.name, device.memory_bytes, layout.parts, batch, adapters)
    return layout

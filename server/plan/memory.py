"""What lies in the device's memory, in bytes: told by `intarsia plan`, kept to by a server's start.

The only division of a GPU's memory there is. Weights, workspace and reserve depend on the model and
on the size of a step; what they leave is for KV pages and adapters.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from server.plan.workload import Workload
from server.plan.workspace import token_bytes, workspace_parts

RESERVED = 0.03  # of a GPU's memory: between an allocator's blocks, in libraries, recorded steps


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes of each part; they and `remains` sum up to the device's memory."""

    runtime: int
    weights: int
    workspace: int
    reserve: int
    kv_pages: int
    adapters: int
    remains: int  # below 0 where it does not fit

    @property
    def parts(self) -> dict[str, int]:
        """All but what remains."""
        return {name: size for name, size in asdict(self).items() if name != "remains"}


def plan_memory(workload: Workload) -> Layout:
    """The layout, whether or not it fits."""
    parts = {
        **fixed_parts(workload),
        "kv_pages": workload.batch * sequence_bytes(workload),
        "adapters": workload.adapters * adapter_bytes(workload),
    }
    return Layout(**parts, remains=workload.device.memory_bytes - sum(parts.values()))


def fixed_parts(workload: Workload) -> Mapping[str, int]:
    """Bytes of what is for neither KV pages nor adapters; it depends on neither."""
    device = workload.device
    return {
        "runtime": device.runtime_bytes,
        "weights": weight_bytes(workload),
        "workspace": sum(workspace_parts(workload).values()),
        "reserve": 0 if device.is_cpu else round(RESERVED * device.memory_bytes),
    }


def weight_bytes(workload: Workload) -> int:
    """Linear layers in their own bytes a number; embedding and norms in the dtype's.

    A tied head is packed beside its embedding on a CPU, and is the embedding on a GPU.
    """
    model = workload.model
    shared = model.tied and not workload.device.is_cpu
    plain = model.norm_numbers + (0 if shared else model.head.size)
    return round(model.linear_numbers * workload.weight_bytes) + plain * workload.dtype_bytes


def sequence_bytes(workload: Workload) -> int:
    """Of one sequence's pages, the last of which may be partly filled."""
    size = workload.page_size
    return -(-workload.context // size) * size * token_bytes(workload)


def adapter_bytes(workload: Workload) -> int:
    """Of one resident adapter."""
    return workload.adapter.num_bytes(workload.model, workload.device.is_cpu)

"""What it takes to have another adapter in the weights: bytes of one switch in fused mode."""

from server.plan.adapters import COLUMN_BYTES, VALUE_BYTES, AdapterShape
from server.plan.kernels import KernelCost
from server.plan.models import Matrix
from server.plan.workload import Workload

PLACE_BYTES = 8  # of a weight's place, in the journal


def switch_cost(workload: Workload) -> KernelCost:
    """One adapter out of the weights and another in, over all layers. Bytes of each entry:

    * out: place (8) and saved value (s) are read;
    * in: value (2) and column (2) are read, place (8) and base value (s) saved;

    and lines of memory touched, each read and written, both times: `lines` * line * 4.
    """
    model, adapter = workload.model, workload.adapter
    entry = 2 * (PLACE_BYTES + workload.dtype_bytes) + VALUE_BYTES + COLUMN_BYTES
    line = 64 if workload.device.is_cpu else 32
    num_bytes = 0.0
    for name in adapter.targets:
        matrix = model.linears[name]
        lines = touched_lines(adapter, matrix, line // workload.dtype_bytes)
        num_bytes += adapter.entries(matrix) * entry + 4 * line * lines
    return KernelCost("switch", model.layers * num_bytes)


def touched_lines(adapter: AdapterShape, matrix: Matrix, line_numbers: int) -> float:
    """Lines of memory, of so many numbers, that the entries of `matrix` lie in, as expected.

    element, entries anywhere with density k: size / n * (1 - (1 - k)^n); block, whole runs of 16
    numbers: entries / min(n, 16).
    """
    entries = adapter.entries(matrix)
    if adapter.kind == "block":
        return entries / min(line_numbers, 16)
    density = entries / matrix.size
    return matrix.size / line_numbers * float(1 - (1 - density) ** line_numbers)

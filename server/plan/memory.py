"""What lies in the device's memory, in bytes."""

from dataclasses import asdict, dataclass

from server.plan.workload import PAGE, Workload

FP32 = 4
PIECES_OF_TOKEN, SPLIT_TOKENS = 16, 256  # at most so many, of so many tokens, on a GPU


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes of each part; they and `remains` sum up to the device's memory."""

    runtime: int
    weights: int
    workspace: int
    kv_pages: int
    adapters: int
    remains: int  # below 0 where it does not fit

    @property
    def parts(self) -> dict[str, int]:
        """All but what remains."""
        return {name: size for name, size in asdict(self).items() if name != "remains"}


def plan_memory(workload: Workload) -> Layout:
    """The layout, whether or not it fits."""
    device = workload.device
    parts = {
        "runtime": device.runtime_bytes,
        "weights": weight_bytes(workload),
        "workspace": workspace_bytes(workload),
        "kv_pages": workload.batch * sequence_bytes(workload),
        "adapters": workload.adapters * adapter_bytes(workload),
    }
    return Layout(**parts, remains=device.memory_bytes - sum(parts.values()))


def weight_bytes(workload: Workload) -> int:
    """Linear layers in their own bytes a number; embedding and norms in the dtype's.

    A tied head is packed beside its embedding on a CPU, and is the embedding on a GPU.
    """
    model = workload.model
    shared = model.tied and not workload.device.is_cpu
    plain = model.norm_numbers + (0 if shared else model.head.size)
    return round(model.linear_numbers * workload.weight_bytes) + plain * workload.dtype_bytes


def token_bytes(workload: Workload) -> int:
    """Of one token's keys and values: 2 * layers * kv heads * head size * bytes a number."""
    model = workload.model
    return 2 * model.layers * model.kv_size * workload.dtype_bytes


def sequence_bytes(workload: Workload) -> int:
    """Of one sequence's pages, the last of which may be partly filled."""
    return -(-workload.context // PAGE) * PAGE * token_bytes(workload)


def adapter_bytes(workload: Workload) -> int:
    """Of one resident adapter."""
    return workload.adapter.num_bytes(workload.model, workload.device.is_cpu)


def workspace_bytes(workload: Workload) -> int:
    """Activations of the largest step, fp32 logits, and a GPU's scratch.

    A step has T = max(512, batch) tokens, unless told otherwise. Of each, while its widest layer
    is computed, there are the residual, the normed input, gate and up and their product:
    (2 hidden + 3 intermediate) numbers. Logits: batch * vocabulary * 4. Scratch of a GPU: one
    matrix as large as the largest target, for long prompts, and what attention makes of the
    pieces of long contexts, 4 * heads * (head size + 2) each.
    """
    model = workload.model
    tokens = max(workload.step_tokens, workload.batch)
    activations = tokens * (2 * model.hidden + 3 * model.intermediate) * workload.dtype_bytes
    return activations + workload.batch * model.vocab * FP32 + _scratch(workload)


def _scratch(workload: Workload) -> int:
    if workload.device.is_cpu:
        return 0
    model, targets = workload.model, workload.adapter.targets
    largest = max(model.linears[name].size for name in targets)
    pieces = PIECES_OF_TOKEN * min(max(workload.step_tokens, workload.batch), SPLIT_TOKENS)
    return largest * workload.dtype_bytes + pieces * model.heads * (model.head_dim + 2) * FP32

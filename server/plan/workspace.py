"""What computing takes beside weights, KV pages and adapters, in bytes and by what it is for.

Not more than one step of the largest size, and what is kept from step to step. T tokens of a step,
B sequences, s bytes of a number; h hidden, n intermediate, V vocabulary.
"""

from collections.abc import Mapping

from server.plan.steps import (
    LOGIT_ROWS_AT_ONCE,
    MOST_PRODUCTS,
    PRODUCTS_OF_ROW,
    buckets,
    spare_pages,
)
from server.plan.workload import Workload

FP32 = 4
PIECES_OF_TOKEN, SPLIT_TOKENS = 16, 256  # at most so many, of so many tokens, on a GPU
LIBRARIES = 64 << 20  # of matrix products: 32 MiB for each stream, on the largest GPUs


def token_bytes(workload: Workload) -> int:
    """Of one token's keys and values: 2 * layers * kv heads * head size * bytes a number."""
    model = workload.model
    return 2 * model.layers * model.kv_size * workload.dtype_bytes


def workspace_parts(workload: Workload) -> Mapping[str, int]:
    """All of it, for steps of T = max(step_tokens, B) tokens."""
    if workload.device.is_cpu:
        logits = workload.batch * workload.model.vocab * FP32
        return {"activations": _tokens(workload) * _plain_activations(workload), "logits": logits}
    return {
        "activations": (_tokens(workload) + workload.batch) * _token_activations(workload),
        "logits": _logits(workload),
        "products": FP32 * (_recorded_products(workload) + MOST_PRODUCTS),
        "scratch": _matrix(workload) + _pieces(workload),
        "padding": spare_pages(workload.batch, workload.page_size)
        * workload.page_size
        * token_bytes(workload),
        "libraries": LIBRARIES,
    }


def _tokens(workload: Workload) -> int:
    return max(workload.step_tokens, workload.batch)


def _plain_activations(workload: Workload) -> int:
    """Bytes of a token without adapters while its widest layer is computed: the residual, the
    normed input, gate and up and their product, (2 h + 3 n) s."""
    model = workload.model
    return (2 * model.hidden + 3 * model.intermediate) * workload.dtype_bytes


def _token_activations(workload: Workload) -> int:
    """Bytes of a token on a GPU, where the most is there in gate and up beside adapters: the
    residual, the normed input and attention's output, the base's product in fp32, and either as
    much of a long prompt's product or the rounded sum: 3 h s + 4 n * 4. A recorded step has its
    own."""
    model = workload.model
    return 3 * model.hidden * workload.dtype_bytes + 4 * model.intermediate * FP32


def _logits(workload: Workload) -> int:
    """B rows that are read, in fp32. Where they are made, in recorded steps and in others, they are
    in the weights' dtype and in fp32, and their summary has two copies more:
    4 B V + (B + 64) V (s + 12)."""
    rows, vocab = workload.batch, workload.model.vocab
    made = (rows + LOGIT_ROWS_AT_ONCE) * vocab * (workload.dtype_bytes + 3 * FP32)
    return rows * vocab * FP32 + made


def _recorded_products(workload: Workload) -> int:
    """Numbers: 8 of each row at most, as wide as the widest layer, for every bucket."""
    model = workload.model
    widest = max(own.rows for own in (*model.linears.values(), model.head))
    return PRODUCTS_OF_ROW * sum(buckets(workload.batch)) * widest


def _matrix(workload: Workload) -> int:
    """Bytes of one matrix as large as the largest weight, for long prompts beside any adapter."""
    model = workload.model
    largest = max(own.size for own in (*model.linears.values(), model.head))
    return largest * workload.dtype_bytes


def _pieces(workload: Workload) -> int:
    """Bytes of what attention makes of pieces of long contexts, 4 heads (head size + 2) each."""
    model = workload.model
    pieces = PIECES_OF_TOKEN * min(_tokens(workload), SPLIT_TOKENS)
    return pieces * model.heads * (model.head_dim + 2) * FP32

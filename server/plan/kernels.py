"""Every kernel of one decode step, with the bytes that it moves and the operations that it does.

Symbols: B tokens of the step, one for each sequence; h hidden, s bytes of a number, L layers. Each
count is of all layers together. Inputs are read once and outputs written once, nothing stays in a
cache between kernels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from server.plan.models import NORMS_PER_LAYER, Matrix
from server.plan.workload import Workload

FP32 = 4
NORM_FLOPS = 6  # of a number: residual, square, sum, and three factors
GATE_FLOPS = 8  # of a number: an exponential as a polynomial, a division, a product
ROTATE_FLOPS = 3  # of a number: two products and a sum
SUMMARY_FLOPS = 8  # of a logit: comparison and exponential
TOKENS_FOR_DOT = 8  # of one adapter, from which tiles are multiplied as matrices


@dataclass(frozen=True, slots=True)
class KernelCost:
    """Of one kernel, over all layers of a step: bytes to and from memory; operations in dense
    products, in vectors, numbers read by index, and operations in products of bytes; how often it
    is started, tokens that it handles one by one, and tokens that are chosen by it."""

    name: str
    num_bytes: float
    matrix_flops: float = 0.0
    vector_flops: float = 0.0
    gathers: float = 0.0
    int8_flops: float = 0.0
    starts: int = 0
    rows: int = 0
    choices: int = 0


def step_kernels(workload: Workload, tokens: int, distinct: int) -> tuple[KernelCost, ...]:
    """One decode step of `tokens` sequences, `distinct` adapters being added to their products.

    With `distinct` 0 that is a step of the base, or of what is fused into the weights.
    """
    layers = workload.model.layers
    deltas = _deltas(workload, tokens, distinct) if distinct else ()
    products = (
        _product(workload, name, matrix, layers, tokens)
        for name, matrix in workload.model.linears.items()
    )
    return (
        _embed(workload, tokens),
        _norms(workload, tokens),
        *products,
        *deltas,
        _rotate(workload, tokens),
        _attention(workload, tokens),
        _gate(workload, tokens),
        _product(workload, "lm_head", workload.model.head, 1, tokens),
        _summary(workload, tokens),
    )


def _embed(workload: Workload, tokens: int) -> KernelCost:
    """Bytes: 2 B h s, a row read and written."""
    num_bytes = 2 * tokens * workload.model.hidden * workload.dtype_bytes
    return KernelCost("embed", num_bytes, starts=1)


def _norms(workload: Workload, tokens: int) -> KernelCost:
    """2 L + 1 norms. Bytes of each: 4 B h s (residual and change in, residual and normed out) and
    h s of weights; operations: 6 B h."""
    hidden = workload.model.hidden
    norms = NORMS_PER_LAYER * workload.model.layers + 1
    num_bytes = norms * (4 * tokens + 1) * hidden * workload.dtype_bytes
    flops = norms * NORM_FLOPS * tokens * hidden
    return KernelCost("norms", num_bytes, vector_flops=flops, starts=norms)


def _product(workload: Workload, name: str, matrix: Matrix, layers: int, tokens: int) -> KernelCost:
    """Bytes: rows * columns * bytes of a weight, B columns s in, B rows s out (4 of a logit);
    operations: 2 B rows columns."""
    out = FP32 if name == "lm_head" else workload.dtype_bytes
    activations = tokens * (matrix.columns * workload.dtype_bytes + matrix.rows * out)
    num_bytes = layers * (matrix.size * workload.weight_bytes + activations)
    flops = layers * 2.0 * tokens * matrix.size
    if workload.quantization == "int8":
        return KernelCost(name, num_bytes, int8_flops=flops, starts=layers)
    return KernelCost(name, num_bytes, matrix_flops=flops, starts=layers)


def _deltas(workload: Workload, tokens: int, distinct: int) -> Iterator[KernelCost]:
    """For each target. Bytes: those of `distinct` adapters, B columns s of inputs, and fp32
    outputs read and written, 8 B rows. Operations: 2 for each entry and token. An element entry's
    input is read by index. Tiles and factors are dense products from 8 tokens an adapter on."""
    adapter, layers = workload.adapter, workload.model.layers
    for name in adapter.targets:
        matrix = workload.model.linears[name]
        own = distinct * adapter.matrix_bytes(matrix, workload.device.is_cpu)
        activations = tokens * (matrix.columns * workload.dtype_bytes + 2 * FP32 * matrix.rows)
        pairs = float(layers * tokens * adapter.entries(matrix))
        is_dense = adapter.kind != "element" and tokens >= TOKENS_FOR_DOT * distinct
        yield KernelCost(
            f"{name} deltas",
            layers * (own + activations),
            matrix_flops=2 * pairs if is_dense else 0.0,
            vector_flops=0.0 if is_dense else 2 * pairs,
            gathers=pairs if adapter.kind == "element" else 0.0,
            starts=layers,
            rows=layers * tokens,
        )


def _rotate(workload: Workload, tokens: int) -> KernelCost:
    """Of each layer, with H query and K key/value heads of D. Bytes: 2 B (H + 2 K) D s, all read,
    queries written, keys and values written to the cache; operations: 3 B (H + K) D."""
    model = workload.model
    queries = model.heads * model.head_dim
    moved = 2 * tokens * (queries + 2 * model.kv_size) * workload.dtype_bytes
    flops = ROTATE_FLOPS * tokens * (queries + model.kv_size)
    return KernelCost(
        "rope + cache write",
        model.layers * moved,
        vector_flops=model.layers * flops,
        starts=model.layers,
        rows=model.layers * tokens,
    )


def _attention(workload: Workload, tokens: int) -> KernelCost:
    """Of each layer, C = min(context, window) tokens seen. Bytes: 2 B C K D s of keys and values,
    2 B H D s of queries and outputs; operations: 4 B C H D."""
    model = workload.model
    seen = min(workload.context, model.window or workload.context)
    queries = model.heads * model.head_dim
    moved = 2 * tokens * (seen * model.kv_size + queries) * workload.dtype_bytes
    return KernelCost(
        "attention",
        model.layers * moved,
        vector_flops=4.0 * model.layers * tokens * seen * queries,
        starts=model.layers,
        rows=model.layers * tokens,
    )


def _gate(workload: Workload, tokens: int) -> KernelCost:
    """Of each layer, with n intermediate numbers. Bytes: 3 B n s; operations: 8 B n."""
    numbers = workload.model.layers * tokens * workload.model.intermediate
    return KernelCost(
        "silu gate",
        3 * numbers * workload.dtype_bytes,
        vector_flops=GATE_FLOPS * numbers,
        starts=workload.model.layers,
    )


def _summary(workload: Workload, tokens: int) -> KernelCost:
    """Bytes: 4 B vocabulary, fp32 logits read; operations: 8 B vocabulary."""
    logits = tokens * workload.model.vocab
    return KernelCost(
        "sampling",
        FP32 * logits,
        vector_flops=SUMMARY_FLOPS * logits,
        starts=1,
        choices=tokens,
    )

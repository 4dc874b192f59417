"""What lies between the products: norms, gates, and heads on their way into the cache."""

from typing import Any, NamedTuple

import numpy as np

from server.kernels.cpu.compiled import compiled, lane_sum
from server.kernels.cpu.exponential import exp
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import copy

ROWS = 8  # of a task
SHARES = 4  # tasks of a thread where neighbours write to the same lines of memory: a page's tokens
LARGEST_EXPONENT = np.float32(88)


class Shape(NamedTuple):
    """Of the heads of a token, and of the pages that they go to."""

    heads: int
    kv_heads: int
    size: int
    page_size: int
    turned: int  # numbers of a head that have an angle


@compiled
def rms_norm(x: Any, weight: Any, eps: Any, threads: int, output: Any) -> None:
    """Fill `output [T, n]` with the norm of the rows of `x`."""
    run_tasks(_norm_rows, (len(x) + ROWS - 1) // ROWS, threads, (x, weight, eps, output))


@compiled
def _norm_rows(task: int, x: Any, weight: Any, eps: Any, output: Any) -> None:
    for row in range(task * ROWS, min(len(x), (task + 1) * ROWS)):
        own, made = x[row], output[row]
        mean = _sum_of_squares(own) / np.float32(len(own))
        inverse = np.float32(1) / np.sqrt(mean + eps)
        for i in range(len(own)):
            made[i] = weight[i] * (own[i] * inverse)


@lane_sum
def _sum_of_squares(numbers: Any) -> Any:
    total = np.float32(0)
    for i in range(len(numbers)):
        total += numbers[i] * numbers[i]
    return total


@compiled
def silu_gate(gate_up: Any, threads: int, output: Any) -> None:
    """Fill `output [T, n]` with `silu(gate) * up` of `gate_up [T, 2 n]`."""
    run_tasks(_gate_row, len(gate_up), threads, (gate_up, output))


@compiled
def _gate_row(row: int, gate_up: Any, output: Any) -> None:
    n = output.shape[1]
    own, made = gate_up[row], output[row]
    for i in range(n):
        gate = own[i]
        exponent = LARGEST_EXPONENT if gate < -LARGEST_EXPONENT else -gate
        made[i] = own[n + i] * (gate / (np.float32(1) + exp(exponent)))


@compiled
def rotate_and_cache(
    heads: Any, cos: Any, sin: Any, slots: Any, keys: Any, values: Any, threads: int, query: Any
) -> None:
    """Fill `query [T, H, D]`, and the slots of `keys [P, K, D, L]` and `values [P, K, L, D]`."""
    _, num_kv_heads, size, page_size = keys.shape
    shape = Shape(query.shape[1], num_kv_heads, size, page_size, cos.shape[1])
    source = heads.reshape(-1), cos.reshape(-1), sin.reshape(-1), slots
    target = query.reshape(-1), keys.reshape(-1), values.reshape(-1)
    rows = max(ROWS, len(heads) // (threads * SHARES))
    tasks = (len(heads) + rows - 1) // rows
    run_tasks(_place_tokens, tasks, threads, (rows, shape, source, target))


@compiled
def _place_tokens(task: int, rows: int, shape: Any, source: Any, target: Any) -> None:
    heads, cos, sin, slots = source
    query, keys, values = target
    size, turned = shape.size, shape.turned
    rotated = np.empty(size, np.float32)
    for token in range(task * rows, min(len(slots), (task + 1) * rows)):
        own_cos = cos[token * turned : (token + 1) * turned]
        own_sin = sin[token * turned : (token + 1) * turned]
        at = token * (shape.heads + 2 * shape.kv_heads) * size
        for h in range(shape.heads):
            to = (token * shape.heads + h) * size
            _rotate(heads[at : at + size], own_cos, own_sin, query[to : to + size])
            at += size
        page, inner = slots[token] // shape.page_size, slots[token] % shape.page_size
        for h in range(shape.kv_heads):
            to = (page * shape.kv_heads + h) * size * shape.page_size
            _rotate(heads[at : at + size], own_cos, own_sin, rotated)
            for d in range(size):
                keys[to + d * shape.page_size + inner] = rotated[d]
            own = at + shape.kv_heads * size
            copy(values, to + inner * size, heads, own, size)
            at += size


@compiled
def _rotate(head: Any, cos: Any, sin: Any, output: Any) -> None:
    half = len(cos) // 2
    for d in range(half):
        first, second = head[d], head[half + d]
        output[d] = first * cos[d] - second * sin[d]
        output[half + d] = second * cos[half + d] + first * sin[half + d]
    for d in range(2 * half, len(head)):
        output[d] = head[d]

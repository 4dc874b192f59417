"""What lies between the products: norms, gates, and heads on their way into the cache."""

from typing import Any

import numpy as np

from server.kernels.cpu.compiled import compiled, lane_sum
from server.kernels.cpu.exponential import exp
from server.kernels.cpu.threads import run_tasks

ROWS = 8  # of a task
LARGEST_EXPONENT = np.float32(88)


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
    tasks = (len(heads) + ROWS - 1) // ROWS
    run_tasks(_place_tokens, tasks, threads, (heads, cos, sin, slots, keys, values, query))


@compiled
def _place_tokens(
    task: int, heads: Any, cos: Any, sin: Any, slots: Any, keys: Any, values: Any, query: Any
) -> None:
    num_heads, num_kv_heads = query.shape[1], keys.shape[1]
    size, page_size = keys.shape[2], keys.shape[3]
    rotated = np.empty(size, np.float32)
    for token in range(task * ROWS, min(len(heads), (task + 1) * ROWS)):
        page, inner = slots[token] // page_size, slots[token] % page_size
        for h in range(num_heads):
            _rotate(heads[token, h], cos[token], sin[token], query[token, h])
        for h in range(num_kv_heads):
            _rotate(heads[token, num_heads + h], cos[token], sin[token], rotated)
            own, place = heads[token, num_heads + num_kv_heads + h], values[page, h, inner]
            for d in range(size):
                keys[page, h, d, inner] = rotated[d]
                place[d] = own[d]


@compiled
def _rotate(head: Any, cos: Any, sin: Any, output: Any) -> None:
    half = len(cos) // 2
    for d in range(half):
        first, second = head[d], head[half + d]
        output[d] = first * cos[d] - second * sin[d]
        output[half + d] = second * cos[half + d] + first * sin[half + d]
    for d in range(2 * half, len(head)):
        output[d] = head[d]

"""What is read of every row of logits: the highest one, where it is, and the sum of all exps."""

from typing import Any

import numpy as np

from server.kernels.cpu.compiled import compiled, lane_sum
from server.kernels.cpu.exponential import exp
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import WIDTH, largest_across


@compiled
def summarize(logits: Any, threads: int, best: Any, highest: Any, log_sums: Any) -> None:
    """Fill `best`, `highest` and `log_sums [n]` of `logits [n, vocab]`, as `LogitSummary` says."""
    run_tasks(_summarize_row, len(logits), threads, (logits, best, highest, log_sums))


@compiled
def _summarize_row(row: int, logits: Any, best: Any, highest: Any, log_sums: Any) -> None:
    own = logits[row]
    top, block = np.float32(-np.inf), 0
    whole = len(own) // WIDTH * WIDTH
    for at in range(0, whole, WIDTH):
        found = largest_across(own, at)
        if found > top:
            top, block = found, at
    for i in range(whole, len(own)):
        if own[i] > top:
            top, block = own[i], i
    while own[block] < top:
        block += 1
    best[row], highest[row] = block, top
    log_sums[row] = np.log(_sum_of_exps(own, top))


@lane_sum
def _sum_of_exps(numbers: Any, top: Any) -> Any:
    total = np.float32(0)
    for i in range(len(numbers)):
        total += exp(numbers[i] - top)
    return total

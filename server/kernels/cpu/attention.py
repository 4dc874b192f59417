"""Attention over pages, for prompts and for single tokens alike.

One task is up to `TILE` tokens of one sequence against one key head: their rows of all its query
heads. It goes through the sequence in blocks of `WIDTH` tokens, which begin at the same places
whatever is asked, and keeps a running maximum and sum of each row (Milakov and Gimelshein 2018).
So a row's bits depend neither on batch mates nor on how a prompt was cut into chunks.
"""

from typing import Any

import numpy as np

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.exponential import exp
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.tiles import multiply
from server.kernels.cpu.vectors import WIDTH, copy, largest_across, sum_across

TILE = 16  # tokens of a task
HIDDEN = np.float32(-1e30)  # the score of a token that is not seen


@compiled
def attend(
    query: Any,
    keys: Any,
    values: Any,
    tables: Any,
    offsets: Any,
    lengths: Any,
    scale: Any,
    window: int,
    threads: int,
    output: Any,
) -> None:
    """Fill `output [T, H, D]`, of `query` over `keys [P, K, D, L]` and `values [P, K, L, D]`.

    `offsets [S + 1]` and `lengths [S]` are `AttentionBatch`'s; `window` 0 stands for none.
    """
    count = 0
    for s in range(len(lengths)):
        count += (offsets[s + 1] - offsets[s] + TILE - 1) // TILE
    tiles = np.empty((count, 2), np.int64)  # sequence, first row
    at = 0
    for s in range(len(lengths)):
        for first in range(offsets[s], offsets[s + 1], TILE):
            tiles[at, 0], tiles[at, 1] = s, first
            at += 1
    run_tasks(
        _attend_tile,
        count * keys.shape[1],
        threads,
        (tiles, query, keys, values, tables, offsets, lengths, scale, window, output),
    )


@compiled
def _attend_tile(
    task: int,
    tiles: Any,
    query: Any,
    keys: Any,
    values: Any,
    tables: Any,
    offsets: Any,
    lengths: Any,
    scale: Any,
    window: int,
    output: Any,
) -> None:
    num_kv_heads, size = keys.shape[1], keys.shape[2]
    group = query.shape[1] // num_kv_heads
    head = task % num_kv_heads
    sequence, first = tiles[task // num_kv_heads]
    count = min(TILE, offsets[sequence + 1] - first)
    position = lengths[sequence] - offsets[sequence + 1] + first  # of the first token
    padded = (size + WIDTH - 1) // WIDTH * WIDTH
    rows = count * group
    own = np.empty(rows * size, np.float32)
    for token in range(count):
        for g in range(group):
            for d in range(size):
                own[(token * group + g) * size + d] = (
                    scale * query[first + token, head * group + g, d]
                )
    block_keys = np.zeros(size * WIDTH, np.float32)
    block_values = np.zeros(WIDTH * padded, np.float32)
    weights = np.empty(rows * WIDTH, np.float32)
    sums = np.zeros(rows * padded, np.float32)
    totals = np.zeros(rows, np.float32)
    maxima = np.full(rows, HIDDEN, np.float32)
    oldest = max(0, position - window + 1) if window > 0 else 0
    end = position + count
    for start in range(oldest // WIDTH * WIDTH, end, WIDTH):
        _gather(
            keys,
            values,
            tables[sequence],
            head,
            start,
            min(end, start + WIDTH),
            padded,
            block_keys,
            block_values,
        )
        weights[:] = 0
        multiply(weights, WIDTH, own, size, block_keys, WIDTH, rows, WIDTH, size)
        for row in range(rows):
            seen_by = position + row // group
            past = min(WIDTH, seen_by + 1 - start)
            before = max(0, seen_by - window + 1 - start) if window > 0 else 0
            _weigh(
                weights, row * WIDTH, before, past, sums, row * padded, padded, maxima, totals, row
            )
        multiply(sums, padded, weights, WIDTH, block_values, padded, rows, padded, WIDTH)
    for row in range(rows):
        share = np.float32(1) / totals[row]
        for d in range(size):
            output[first + row // group, head * group + row % group, d] = (
                sums[row * padded + d] * share
            )


@compiled
def _gather(
    keys: Any,
    values: Any,
    pages: Any,
    head: int,
    start: int,
    end: int,
    padded: int,
    block_keys: Any,
    block_values: Any,
) -> None:
    """The tokens `[start, end)` side by side, `[D, WIDTH]` and `[WIDTH, padded]`; zeros behind."""
    num_kv_heads, size, page_size = keys.shape[1:]
    flat_keys, flat_values = keys.reshape(-1), values.reshape(-1)
    at = start
    while at < end:
        inner, to = at % page_size, at - start
        taken = min(page_size - inner, end - at)
        own = (pages[at // page_size] * num_kv_heads + head) * size * page_size
        for d in range(size):
            copy(block_keys, d * WIDTH + to, flat_keys, own + d * page_size + inner, taken)
        for j in range(taken):
            copy(block_values, (to + j) * padded, flat_values, own + (inner + j) * size, size)
        at += taken
    if end - start < WIDTH:
        for d in range(size):
            block_keys[d * WIDTH + end - start : (d + 1) * WIDTH] = 0
        block_values[(end - start) * padded :] = 0


@compiled
def _weigh(
    weights: Any,
    at: int,
    before: int,
    past: int,
    sums: Any,
    sums_at: int,
    padded: int,
    maxima: Any,
    totals: Any,
    row: int,
) -> None:
    """Scores of one block to weights, relative to the row's maximum so far, as all before are."""
    if past <= before:
        weights[at : at + WIDTH] = 0
        return
    for j in range(before):
        weights[at + j] = HIDDEN
    for j in range(past, WIDTH):
        weights[at + j] = HIDDEN
    maximum = max(maxima[row], largest_across(weights, at))
    for j in range(WIDTH):
        weights[at + j] = exp(weights[at + j] - maximum)
    shrinking = exp(maxima[row] - maximum)
    if shrinking != np.float32(1):
        for d in range(padded):
            sums[sums_at + d] *= shrinking
    totals[row] = totals[row] * shrinking + sum_across(weights, at)
    maxima[row] = maximum

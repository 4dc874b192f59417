"""Attention over pages, for prompts and for single tokens alike.

One task is up to `TILE` tokens of one sequence against one key head: their rows of all its query
heads. It goes through the sequence in blocks of `WIDTH` tokens, which begin at the same places
whatever is asked, and keeps a running maximum and sum of each row (Milakov and Gimelshein 2018).
So a row's bits depend neither on batch mates nor on how a prompt was cut into chunks.
"""

from typing import Any, NamedTuple

import numpy as np

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.exponential import exp
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.tiles import multiply
from server.kernels.cpu.vectors import LANES, WIDTH, copy, largest_across, prefetch, sum_across

TILE = 16  # tokens of a task
FEW = 16  # rows that wait for memory, rather than memory for them
HIDDEN = np.float32(-1e30)  # the score of a token that is not seen


class Cache(NamedTuple):
    """The paged cache as flat arrays."""

    keys: Any  # of [P, K, D, L]
    values: Any  # of [P, K, L, D]
    num_kv_heads: int
    page_size: int
    head_numbers: int  # of one head in one page


class Batch(NamedTuple):
    """An `AttentionBatch` for compiled loops, and how it attends."""

    tables: Any  # [S, max pages]
    offsets: Any  # [S + 1]
    lengths: Any  # [S]
    scale: Any
    window: int  # 0 for none


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

    `tables`, `offsets` and `lengths` are `AttentionBatch`'s; `window` 0 stands for none.
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
    _, num_kv_heads, size, page_size = keys.shape
    flat = keys.reshape(-1), values.reshape(-1)
    cache = Cache(flat[0], flat[1], num_kv_heads, page_size, size * page_size)
    batch = Batch(tables, offsets, lengths, scale, window)
    run_tasks(_attend_tile, count * num_kv_heads, threads, (tiles, query, cache, batch, output))


@compiled
def _attend_tile(task: int, tiles: Any, query: Any, cache: Any, batch: Any, output: Any) -> None:
    num_kv_heads, size = cache.num_kv_heads, query.shape[2]
    group = query.shape[1] // num_kv_heads
    head = task % num_kv_heads
    sequence, first = tiles[task // num_kv_heads]
    past = min(first + TILE, batch.offsets[sequence + 1])
    position = batch.lengths[sequence] - batch.offsets[sequence + 1] + first  # of the first token
    end = position + past - first
    rows, padded = (past - first) * group, (size + WIDTH - 1) // WIDTH * WIDTH
    own = np.empty(rows * size, np.float32)
    _scale_rows(own, query[first:past, head * group : (head + 1) * group], batch.scale)
    block = np.zeros(WIDTH * (size + padded), np.float32)
    weights = np.empty(rows * WIDTH, np.float32)
    sums = np.zeros(rows * padded, np.float32)
    totals = np.zeros(rows, np.float32)
    maxima = np.empty(rows, np.float32)
    maxima[:] = HIDDEN
    oldest = max(0, position - batch.window + 1) if batch.window > 0 else 0
    in_place = cache.page_size == LANES and size == padded
    for start in range(oldest // WIDTH * WIDTH, end, WIDTH):
        weights[:] = 0
        pages = batch.tables[sequence]
        if in_place:
            _score_pages(weights, own, rows, size, cache, pages, head, start, end)
        else:
            _gather(cache, pages, head, start, min(end, start + WIDTH), size, padded, block)
            multiply(weights, 0, WIDTH, own, 0, size, block, 0, LANES, WIDTH, rows, size)
        for row in range(rows):
            seen_by = position + row // group
            visible = min(WIDTH, seen_by + 1 - start)
            before = max(0, seen_by - batch.window + 1 - start) if batch.window > 0 else 0
            line = sums[row * padded : (row + 1) * padded]
            _weigh(
                weights[row * WIDTH : (row + 1) * WIDTH], before, visible, line, maxima, totals, row
            )
        if in_place:
            _mix_pages(sums, weights, rows, size, cache, pages, head, start, end)
        else:
            for n in range(0, padded, WIDTH):
                at = WIDTH * size + n
                multiply(
                    sums, n, padded, weights, 0, WIDTH, block, at, at + LANES, padded, rows, WIDTH
                )
    for row in range(rows):
        made, share = output[first + row // group, head * group + row % group], totals[row]
        line = sums[row * padded : (row + 1) * padded]
        for d in range(size):
            made[d] = line[d] / share


@compiled
def _scale_rows(own: Any, query: Any, scale: Any) -> None:
    """Every head of every token of `query`, one after the other."""
    at = 0
    for token in range(len(query)):
        for h in range(query.shape[1]):
            for d in range(query.shape[2]):
                own[at] = scale * query[token, h, d]
                at += 1


@compiled
def _score_pages(
    weights: Any,
    own: Any,
    rows: int,
    size: int,
    cache: Any,
    pages: Any,
    head: int,
    start: int,
    end: int,
) -> None:
    """The scores of a block of two pages, read where they are; the next block is sent for."""
    at = _place(cache, pages, head, start)
    following = _place(cache, pages, head, start + LANES) if start + LANES < end else at
    if rows < FEW and start + WIDTH < end:
        ahead = _place(cache, pages, head, start + WIDTH)
        prefetch(cache.keys, ahead, size * LANES)
        prefetch(cache.values, ahead, size * LANES)
        if start + WIDTH + LANES < end:
            ahead = _place(cache, pages, head, start + WIDTH + LANES)
            prefetch(cache.keys, ahead, size * LANES)
            prefetch(cache.values, ahead, size * LANES)
    multiply(weights, 0, WIDTH, own, 0, size, cache.keys, at, following, LANES, rows, size)


@compiled
def _mix_pages(
    sums: Any,
    weights: Any,
    rows: int,
    size: int,
    cache: Any,
    pages: Any,
    head: int,
    start: int,
    end: int,
) -> None:
    """Add the values of a block of two pages, as far as there are tokens."""
    for first in range(start, min(end, start + WIDTH), LANES):
        at, count = _place(cache, pages, head, first), min(LANES, end - first)
        for n in range(0, size, WIDTH):
            b = at + n
            multiply(
                sums,
                n,
                size,
                weights,
                first - start,
                WIDTH,
                cache.values,
                b,
                b + LANES,
                size,
                rows,
                count,
            )


@compiled
def _place(cache: Any, pages: Any, head: int, token: int) -> Any:
    """Where a head's numbers of the page of `token` begin, in keys and in values."""
    page = pages[token // cache.page_size]
    return (page * cache.num_kv_heads + head) * cache.head_numbers


@compiled
def _gather(
    cache: Any, pages: Any, head: int, start: int, end: int, size: int, padded: int, block: Any
) -> None:
    """Tokens `[start, end)` side by side: keys `[D, WIDTH]`, then values `[WIDTH, padded]`."""
    if end - start < WIDTH:
        block[:] = 0
    at = start
    while at < end:
        inner, to = at % cache.page_size, at - start
        taken = min(cache.page_size - inner, end - at)
        own = _place(cache, pages, head, at)
        for d in range(size):
            copy(block, d * WIDTH + to, cache.keys, own + d * cache.page_size + inner, taken)
        for j in range(taken):
            place = WIDTH * size + (to + j) * padded
            copy(block, place, cache.values, own + (inner + j) * size, size)
        at += taken


@compiled
def _weigh(
    scores: Any, before: int, past: int, sums: Any, maxima: Any, totals: Any, row: int
) -> None:
    """Scores of one block to weights, relative to the row's maximum so far, as all before are."""
    if past <= before:
        scores[:] = 0
        return
    for j in range(before):
        scores[j] = HIDDEN
    for j in range(max(0, past), WIDTH):
        scores[j] = HIDDEN
    maximum = max(maxima[row], largest_across(scores, 0))
    for j in range(WIDTH):
        scores[j] = exp(scores[j] - maximum)
    shrinking = exp(maxima[row] - maximum)
    if shrinking != np.float32(1):
        for d in range(len(sums)):
            sums[d] *= shrinking
    totals[row] = totals[row] * shrinking + sum_across(scores, 0)
    maxima[row] = maximum

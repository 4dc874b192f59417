"""Attention over pages, for prompts and for single tokens alike.

One task is up to `TILE` tokens of one sequence against one key head: their rows of all its query
heads. It goes through the sequence in blocks of `WIDTH` tokens, which begin at the same places
whatever is asked, and keeps a running maximum and sum of each row (Milakov and Gimelshein 2018).
So a row's bits depend neither on batch mates nor on how a prompt was cut into chunks.

Single tokens wait for memory, which comes twice as fast in long pieces as in short ones. So where
a block is a page, and where there are enough of them, one task takes all key heads of its token,
each page's keys and then its values from end to end. While one head's keys or values are read, what
is read next is on its way, across pages too, where processors do not look ahead by themselves.
"""

from typing import Any, NamedTuple

import numpy as np

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.pages import Cache, Task, gather, place
from server.kernels.cpu.softmax import HIDDEN, Rows, divide, weigh
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.tiles import multiply, multiply_wide
from server.kernels.cpu.vectors import LANES, WIDTH

TILE = 16  # tokens of a task
MANY = 4  # tasks for each thread, so that none waits long for another


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
    _, num_kv_heads, size, page_size = keys.shape
    in_place = page_size == WIDTH and size % WIDTH == 0
    cache = Cache(keys.reshape(-1), values.reshape(-1), num_kv_heads, page_size, size, in_place)
    batch = Batch(tables, offsets, lengths, scale, window)
    tasks = _tasks(offsets, num_kv_heads, MANY * threads if in_place else len(query) + 1)
    run_tasks(_attend, len(tasks), threads, (tasks, query, cache, batch, output))


@compiled
def _tasks(offsets: Any, num_kv_heads: int, enough: int) -> Any:
    """Sequence, first token, first key head and number of key heads, of each task.

    With `enough` tiles, single tokens have all their heads together.
    """
    num_tiles = 0
    for s in range(len(offsets) - 1):
        num_tiles += (offsets[s + 1] - offsets[s] + TILE - 1) // TILE
    tasks = np.empty((num_tiles * num_kv_heads, 4), np.int64)
    count = 0
    for s in range(len(offsets) - 1):
        together = offsets[s + 1] - offsets[s] == 1 and num_tiles >= enough
        heads = num_kv_heads if together else 1
        for first in range(offsets[s], offsets[s + 1], TILE):
            for head in range(0, num_kv_heads, heads):
                tasks[count, 0], tasks[count, 1] = s, first
                tasks[count, 2], tasks[count, 3] = head, heads
                count += 1
    return tasks[:count]


@compiled
def _attend(number: int, tasks: Any, query: Any, cache: Any, batch: Any, output: Any) -> None:
    sequence, first, first_head, heads = tasks[number]
    past = min(first + TILE, batch.offsets[sequence + 1])
    end = batch.lengths[sequence] - batch.offsets[sequence + 1] + past
    group = query.shape[1] // cache.num_kv_heads
    rows = (past - first) * group
    pages = batch.tables[sequence]
    task = Task(pages, first_head, heads, group, rows, end - past + first, end)
    padded = (cache.size + WIDTH - 1) // WIDTH * WIDTH
    own = np.empty(heads * rows * cache.size, np.float32)
    _scale_rows(own, query[first:past], task, batch.scale)
    block = np.zeros(0 if cache.is_in_place else WIDTH * (cache.size + padded), np.float32)
    weights = np.empty(heads * rows * WIDTH, np.float32)
    made = Rows(
        np.zeros(heads * rows * padded, np.float32),
        np.full(heads * rows, HIDDEN),
        np.zeros(heads * rows * LANES, np.float32),
        padded,
    )
    oldest = max(0, task.position - batch.window + 1) if batch.window > 0 else 0
    for start in range(oldest // WIDTH * WIDTH, end, WIDTH):
        weights[:] = 0
        _score(weights, own, cache, task, block, start)
        _weigh(weights, task, batch.window, start, made)
        _mix(made.sums, weights, cache, task, block, start)
    _divide(output[first:past], made, task)


@compiled
def _scale_rows(own: Any, query: Any, task: Any, scale: Any) -> None:
    """The rows of a task's tokens."""
    at = 0
    for head in range(
        task.first_head * task.group, (task.first_head + task.heads) * task.group, task.group
    ):
        for token in range(len(query)):
            for h in range(head, head + task.group):
                for d in range(query.shape[2]):
                    own[at] = scale * query[token, h, d]
                    at += 1


@compiled
def _weigh(weights: Any, task: Any, window: int, start: int, made: Any) -> None:
    """The scores of a block to weights, of what each token sees."""
    count, past = task.heads * task.rows, start + WIDTH
    if past <= task.position + 1 and (window == 0 or start > task.end - 1 - window):
        weigh(weights, 0, 0, WIDTH, made, 0, count)
        return
    for row in range(0, count, task.group):
        seen_by = task.position + row % task.rows // task.group
        visible = min(WIDTH, seen_by + 1 - start)
        before = max(0, seen_by - window + 1 - start) if window > 0 else 0
        if before < visible:
            weigh(weights, row * WIDTH, before, visible, made, row, task.group)
        else:
            weights[row * WIDTH : (row + task.group) * WIDTH] = 0


@compiled
def _divide(output: Any, made: Any, task: Any) -> None:
    """The results of a task's tokens."""
    for row in range(task.heads * task.rows):
        head, own = task.first_head + row // task.rows, row % task.rows
        divide(output[own // task.group, head * task.group + own % task.group], made, row)


@compiled
def _score(weights: Any, own: Any, cache: Any, task: Any, block: Any, start: int) -> None:
    """The scores of a block. What is read next comes near meanwhile: keys, and then values."""
    rows, size = task.rows, cache.size
    if not cache.is_in_place:
        gather(cache, task, start, block)
        multiply(weights, 0, WIDTH, own, 0, size, block, 0, WIDTH, rows, size, block, 0)
        return
    at, keys = place(cache, task, start), cache.keys
    for head in range(task.heads):
        w, q, b = head * rows * WIDTH, head * rows * size, at + head * size * WIDTH
        if head + 1 < task.heads:
            far, far_at = keys, b + size * WIDTH
        else:
            far, far_at = cache.values, at
        multiply(weights, w, WIDTH, own, q, size, keys, b, WIDTH, rows, size, far, far_at)


@compiled
def _mix(sums: Any, weights: Any, cache: Any, task: Any, block: Any, start: int) -> None:
    """Add the values of a block, as far as there are tokens. What is read next comes near."""
    rows, depth, size = task.rows, min(WIDTH, task.end - start), cache.size
    if not cache.is_in_place:
        padded = (size + WIDTH - 1) // WIDTH * WIDTH
        for n in range(0, padded, WIDTH):
            b = WIDTH * size + n
            multiply(sums, n, padded, weights, 0, WIDTH, block, b, padded, rows, depth, block, b)
        return
    at, values = place(cache, task, start), cache.values
    for head in range(task.heads):
        w, to, b = head * rows * WIDTH, head * rows * size, at + head * size * WIDTH
        far, far_at = values, b
        if head + 1 < task.heads:
            far_at = b + size * WIDTH
        elif start + WIDTH < task.end:
            far, far_at = cache.keys, place(cache, task, start + WIDTH)
        wide = size // (2 * WIDTH) * (2 * WIDTH)
        for n in range(0, wide, 2 * WIDTH):
            c, v, near = to + n, b + n, far_at + n * WIDTH
            multiply_wide(sums, c, size, weights, w, WIDTH, values, v, size, rows, depth, far, near)
        for n in range(wide, size, WIDTH):
            c, v, near = to + n, b + n, far_at + n * WIDTH
            multiply(sums, c, size, weights, w, WIDTH, values, v, size, rows, depth, far, near)

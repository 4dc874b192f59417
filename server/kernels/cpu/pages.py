"""Pages of the cache as compiled loops read them, in place or a block of them side by side."""

from typing import Any, NamedTuple

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.vectors import WIDTH, copy


class Cache(NamedTuple):
    """The paged cache as flat arrays."""

    keys: Any  # of [P, K, D, L]
    values: Any  # of [P, K, L, D]
    num_kv_heads: int
    page_size: int
    size: int  # of a head
    is_in_place: bool  # whether a page is a block that can be multiplied where it is


class Task(NamedTuple):
    """Tokens against key heads; rows go head by head, in a head token by token."""

    pages: Any
    first_head: int
    heads: int
    group: int  # query heads of a key head
    rows: int  # of one key head
    position: int  # of the first token
    end: int  # past the last one's


@compiled
def place(cache: Any, task: Any, token: int) -> Any:
    """Where the page of `token` begins for a task's first head, in keys and in values."""
    page = task.pages[token // cache.page_size]
    return (page * cache.num_kv_heads + task.first_head) * cache.size * cache.page_size


@compiled
def gather(cache: Any, task: Any, start: int, block: Any) -> None:
    """A block's tokens side by side: keys `[D, WIDTH]`, then values `[WIDTH, padded]`."""
    size, end = cache.size, min(task.end, start + WIDTH)
    padded = (size + WIDTH - 1) // WIDTH * WIDTH
    if end - start < WIDTH:
        block[:] = 0
    at = start
    while at < end:
        inner, to = at % cache.page_size, at - start
        taken = min(cache.page_size - inner, end - at)
        own = place(cache, task, at)
        for d in range(size):
            copy(block, d * WIDTH + to, cache.keys, own + d * cache.page_size + inner, taken)
        for j in range(taken):
            line = WIDTH * size + (to + j) * padded
            copy(block, line, cache.values, own + (inner + j) * size, size)
        at += taken

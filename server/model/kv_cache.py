"""The paged key/value cache as tensors. Which page belongs to whom is the block manager's."""

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from server.model.config import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """Keys and values of every layer, each `[P, L, K, D]`; P pages of L tokens.

    In memory a page goes head by head: values as `[K, L, D]`, keys as `[K, D, L]`, so that one
    vector holds the same dimension of many tokens.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mapping: mmap.mmap | None = None  # the host memory of all of them, keys first

    def forget(self, pages: Sequence[int]) -> None:
        """Give the memory of `pages` back to the system; they read as zeros until written to.

        Nothing happens on a device, whose memory is not had page by page.
        """
        if self.mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        layer_bytes = self.keys[0].nbytes
        page_bytes = layer_bytes // len(self.keys[0])
        for first, past in _runs(sorted(pages)):
            for start in range(0, 2 * len(self.keys) * layer_bytes, layer_bytes):
                _drop(self.mapping, start + first * page_bytes, start + past * page_bytes)


def allocate(
    config: ModelConfig,
    num_pages: int,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> KVCache:
    """A cache of `num_pages` pages of `page_size` tokens, zero-filled.

    In host memory it is there when it is first written to: an unused page costs nothing.
    """
    head_numbers = page_size * config.head_dim
    shape = (2 * config.num_layers, num_pages, config.num_kv_heads, head_numbers)
    if torch.device(device).type == "cpu":
        size = bytes_per_page(config, page_size, dtype) * num_pages
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        storage = torch.frombuffer(mapping, dtype=dtype).view(shape)
    else:
        mapping, storage = None, torch.zeros(shape, dtype=dtype, device=device)
    return KVCache(*paged(storage, page_size), mapping)


def paged(storage: Tensor, page_size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys and values of every layer in `storage [2 * layers, P, K, L * D]`, keys first."""
    keys, values = storage.chunk(2)
    return (
        keys.unflatten(-1, (-1, page_size)).permute(0, 1, 4, 2, 3).unbind(),
        values.unflatten(-1, (page_size, -1)).permute(0, 1, 3, 2, 4).unbind(),
    )


def _runs(pages: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Ascending page ids as runs `[first, past)`."""
    breaks = [at for at, (page, following) in enumerate(pairwise(pages), 1) if following > page + 1]
    for start, end in pairwise([0, *breaks, len(pages)]):
        if start < end:
            yield pages[start], pages[end - 1] + 1


def _drop(mapping: mmap.mmap, start: int, end: int) -> None:
    """Forget the system's pages that lie wholly within the bytes `[start, end)`."""
    first, past = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < past:
        mapping.madvise(mmap.MADV_DONTNEED, first, past - first)


def bytes_per_page(config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers, keys and values."""
    return 2 * config.num_layers * page_size * config.kv_size * dtype.itemsize

"""The paged key/value cache as tensors. Which page belongs to whom is the block manager's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from server.model.config import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """Keys and values of every layer, each `[P, L, K, D]`; P pages of L tokens."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def allocate(
    config: ModelConfig,
    num_pages: int,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> KVCache:
    """A cache of `num_pages` pages of `page_size` tokens, zero-filled."""
    shape = (num_pages, page_size, config.num_kv_heads, config.head_dim)

    def tensors() -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)
        )

    return KVCache(keys=tensors(), values=tensors())


def bytes_per_page(config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers, keys and values."""
    return 2 * config.num_layers * page_size * config.kv_size * dtype.itemsize

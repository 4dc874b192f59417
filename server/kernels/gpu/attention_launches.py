"""Paged attention as launches: two of tiles, narrow and wide, and one of merges.

Grids are as large as the device and scratch follows the tokens of a step, padding too; nothing
depends on contexts, and nothing waits for the device. So the launches of a step that has no more
than one token of each sequence can be recorded and do another step's work later.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from server.kernels.gpu.attention import ATTEND, FORMS_16_BIT, FORMS_32_BIT, MERGE
from server.kernels.gpu.attention_list import most_pieces
from server.kernels.gpu.compiled import Configuration, is_interpreted

UNLIMITED = 2**31 - 1  # a window beyond any context
HEAD_SIZES = (64, 96, 128)  # that are compiled ahead of time
RUN_NUMBERS = 16  # of a run, where pages and heads have as many
LEAST_DEPTH = 16  # of a product of matrices


@dataclass(frozen=True, slots=True)
class PagedAttention:
    """The kernels of attention on one device."""

    num_programs: int  # of every grid

    def attend(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        block_tables: Tensor,
        work: Tensor,
        *,
        scale: float,
        window: int | None,
        has_wide: bool,
    ) -> Tensor:
        """Attention of `query [T, H, D]` as the list `work` has it; rows of no tile are 0.

        Within a page, keys lie as `[K, D, L]` and values as `[K, L, D]`. `work` is numbers of
        `list_attention` on the device, for at most T tokens, and whatever lies behind them;
        without `has_wide`, they have no wide tiles.
        """
        query = query.contiguous()
        output = query.new_zeros(query.shape, dtype=query.dtype)  # padding stays finite
        grid, constants = (self.num_programs,), head_constants(query.shape[2])
        scratch = _scratch(query)
        tensors = (query, key_cache, value_cache, block_tables, work)
        limit = UNLIMITED if window is None else window
        numbers = (limit, query.shape[1], key_cache.shape[2], _bits(key_cache.shape[1]))
        strides = (*block_tables.stride(), *_strides(key_cache, value_cache))
        for form in forms_of(query.dtype)[: 1 + has_wide]:
            ATTEND.launch(
                grid,
                form,
                output,
                *scratch,
                *tensors,
                scale * math.log2(math.e),
                *numbers,
                *strides,
                **constants,
                RUN=math.gcd(RUN_NUMBERS, key_cache.shape[1], query.shape[2]),
            )
        (form,) = MERGE.configurations
        MERGE.launch(grid, form, output, *scratch, work, query.shape[1], **constants)
        return output


def forms_of(dtype: torch.dtype) -> tuple[Configuration, Configuration]:
    """Of narrow tiles and of wide ones, for activations of `dtype`."""
    return FORMS_16_BIT if dtype.itemsize == 2 else FORMS_32_BIT


def _scratch(query: Tensor) -> tuple[Tensor, Tensor]:
    """For pieces: weighted values, and of each its largest score and sum."""
    shape = (most_pieces(len(query)), query.shape[1])
    sums = query.new_empty((*shape, query.shape[2]), dtype=torch.float32)
    return sums, query.new_empty((*shape, 2), dtype=torch.float32)


def _bits(page_size: int) -> int:
    assert page_size & (page_size - 1) == 0, "pages are a power of two of tokens"
    return page_size.bit_length() - 1


def _strides(keys: Tensor, values: Tensor) -> tuple[int, ...]:
    key_page, key_slot, key_head, key_number = keys.stride()
    value_page, value_slot, value_head, value_number = values.stride()
    assert key_slot == value_number == 1, "keys lie token by token, values number by number"
    return key_page, key_head, key_number, value_page, value_head, value_slot


def head_constants(size: int) -> dict[str, int | bool]:
    """Constants of kernels for heads of `size` numbers."""
    depth = max(LEAST_DEPTH, 1 << (size - 1).bit_length())
    return {"INTERPRETED": is_interpreted(), "SIZE": size, "DEPTH": depth}

"""Sequences in a paged cache, and what attention over them is in fp64."""

from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from server.kernels.interface import AttentionBatch, Kernels
from server.kernels.reference import ReferenceKernels
from server.model.kv_cache import paged

SCALE = 0.3


@dataclass
class Case:
    """Sequences of `lengths` tokens, of which the last `news` are queries."""

    lengths: list[int]
    news: list[int]
    queries: list[Tensor]  # [new, H, D]
    keys: list[Tensor]  # [length, K, D]
    values: list[Tensor]
    page_size: int


def make_case(
    lengths: list[int],
    news: list[int],
    num_heads: int,
    num_kv_heads: int,
    sizes: tuple[int, int],
) -> Case:
    """`sizes` are those of a head and of a page."""
    head_dim, page_size = sizes
    source = torch.Generator().manual_seed(sum(lengths))

    def rows(count: int, heads: int) -> Tensor:
        return torch.randn(count, heads, head_dim, generator=source)

    return Case(
        lengths,
        news,
        [rows(new, num_heads) for new in news],
        [rows(length, num_kv_heads) for length in lengths],
        [rows(length, num_kv_heads) for length in lengths],
        page_size,
    )


class Placed(NamedTuple):
    """A case as kernels get it."""

    query: Tensor  # [T, H, D]
    keys: Tensor
    values: Tensor
    batch: AttentionBatch


def placed(case: Case, dtype: torch.dtype = torch.float32) -> Placed:
    """In a cache whose every unused place is NaN, so that reading one shows; page 0 is unused."""
    page_size = case.page_size
    counts = [-(-length // page_size) for length in case.lengths]
    order = 1 + torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(1))
    tables = torch.full((len(counts), max(counts) + 1), int(order[-1]))
    _, num_kv_heads, head_dim = case.keys[0].shape
    numbers = page_size * head_dim
    storage = torch.full((2, 1 + len(order), num_kv_heads, numbers), torch.nan).to(dtype)
    (keys,), (values,) = paged(storage, page_size)
    unturned = torch.ones(1, 0, dtype=dtype)
    new_slots = []
    for row, (length, new) in enumerate(zip(case.lengths, case.news, strict=True)):
        first = sum(counts[:row])
        tables[row, : counts[row]] = order[first : first + counts[row]]
        places = torch.arange(length)
        slots = tables[row, places // page_size] * page_size + places % page_size
        heads = torch.cat([case.keys[row], case.values[row]], dim=1).to(dtype)
        turn = unturned.expand(length, 0)
        ReferenceKernels("cpu").rotate_and_cache(heads, turn, turn, slots, keys, values)
        new_slots.append(slots[length - new :])
    batch = AttentionBatch(
        query_offsets=[0, *accumulate(case.news)],
        context_lengths=case.lengths,
        block_tables=tables,
        slots=torch.cat(new_slots),
    )
    return Placed(torch.cat(case.queries).to(dtype), keys, values, batch)


def paged_attention(
    kernels: Kernels, case: Case, window: int | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    return kernels.attention(*placed(case, dtype), scale=SCALE, sliding_window=window)


def plain_attention(case: Case, window: int | None) -> Tensor:
    outputs = []
    for query, keys, values in zip(case.queries, case.keys, case.values, strict=True):
        group = query.shape[1] // keys.shape[1]
        wide_keys = keys.double().repeat_interleave(group, dim=1)
        wide_values = values.double().repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query.double(), wide_keys) * SCALE
        i = torch.arange(len(keys) - len(query), len(keys))[:, None]
        j = torch.arange(len(keys))
        seen = (j <= i) & (j > i - (window or len(keys)))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, wide_values))
    return torch.cat(outputs)

"""Every operation in plain torch: the specification that faster kernels are held to.

Nothing here knows of requests, adapters or models. Where speed and clarity part, clarity wins,
except that temporary memory is bounded and no operation loops over tokens or entries in Python.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters_store.adapter import WeightDelta
from server.kernels.interface import AttentionBatch, DeltaBatch, Entries, LogitSummary, Operand
from server.kernels.reference_operands import (
    EntriesOperand,
    ReferenceOperand,
    laid_out_bytes,
    lay_out,
)

NUMBERS_PER_CHUNK = 1 << 20  # of a 16-bit weight, widened at a time: they stay in a core's cache


class ReferenceKernels:
    """`Kernels` in plain torch, on any device and for any floating dtype of activations."""

    name = "reference/2"

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def operand(self, delta: WeightDelta) -> Operand:
        return lay_out(delta, self.device)

    def operand_bytes(self, delta: WeightDelta) -> int:
        return laid_out_bytes(delta)

    def pack(self, weight: Tensor) -> Tensor:
        return weight

    def can_fuse(self, operand: Operand) -> bool:
        return isinstance(operand, EntriesOperand)

    def entries(self, operand: Operand, weight: Tensor) -> Entries:
        assert isinstance(operand, EntriesOperand), "asked of what cannot fuse"
        return operand.entries(weight.shape[1])

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        return weight.view(-1)[places]

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        weight.view(-1)[places] = values

    def warm_up(self, weights: Iterable[Tensor]) -> None:
        pass

    def embed(self, token_ids: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(token_ids, weight)

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch | None) -> Tensor:
        y = self.product(x, weight)
        segments = _segments(deltas) if deltas is not None else []
        if not segments:
            return y
        rows = torch.cat([tokens for tokens, _, _ in segments]).unique()
        exact = y[rows] if y.dtype == torch.float32 else fp32_product(x[rows], weight)
        for tokens, coefficients, operands in segments:
            inputs = x[tokens].float()
            at = torch.searchsorted(rows, tokens)
            for operand in operands:
                exact.index_add_(0, at, coefficients[:, None] * operand.product(inputs))
        y[rows] = exact.to(y.dtype)
        return y

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x @ W.T` of a packed weight."""
        return F.linear(x, weight)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        mean_square = wide.pow(2).mean(-1, keepdim=True)
        return weight * (wide * torch.rsqrt(mean_square + eps)).to(x.dtype)

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return up * F.silu(gate)

    def rotate_and_cache(
        self,
        heads: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
    ) -> Tensor:
        page_size, num_kv_heads = key_cache.shape[1:3]
        turned, values = heads.tensor_split([heads.shape[1] - num_kv_heads], dim=1)
        queries, keys = _rotated(turned, cos, sin).tensor_split([-num_kv_heads], dim=1)
        places = (slots // page_size, slots % page_size)
        key_cache[places], value_cache[places] = keys, values
        return queries

    def attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: AttentionBatch,
        *,
        scale: float,
        sliding_window: int | None,
    ) -> Tensor:
        output = torch.empty_like(query)
        spans = pairwise(batch.query_offsets)
        for (start, end), length, pages in zip(
            spans, batch.context_lengths, batch.block_tables, strict=True
        ):
            first = length - (end - start)  # position of the first query
            oldest = 0 if sliding_window is None else max(0, first - sliding_window + 1)
            output[start:end] = _attend(
                query[start:end],
                _context(key_cache, pages, oldest, length),
                _context(value_cache, pages, oldest, length),
                first - oldest,
                scale,
                sliding_window,
            )
        return output

    def summarize(self, logits: Tensor) -> LogitSummary:
        best = logits.argmax(-1)
        highest = logits.gather(-1, best[:, None])
        return LogitSummary(best, highest[:, 0], (logits - highest).exp().sum(-1).log())


Segment = tuple[Tensor, Tensor, Sequence[ReferenceOperand]]  # tokens, coefficients, operands


def _segments(deltas: DeltaBatch) -> list[Segment]:
    """The segments of `deltas` that change anything."""
    spans = zip(pairwise(deltas.offsets), deltas.operands, strict=True)
    return [
        (deltas.tokens[start:end], deltas.coefficients[start:end], _own(operands))
        for (start, end), operands in spans
        if start < end and operands
    ]


def _own(operands: Sequence[Operand]) -> Sequence[ReferenceOperand]:
    # Every operand of a step was laid out by the kernels that now multiply it.
    return cast("Sequence[ReferenceOperand]", operands)


def fp32_product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` of 16-bit tensors, in fp32."""
    wide, chunks = x.float(), weight.split(max(1, NUMBERS_PER_CHUNK // weight.shape[1]))
    return torch.cat([F.linear(wide, chunk.float()) for chunk in chunks], dim=-1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rotated, passed = x.tensor_split([cos.shape[-1]], dim=-1)
    first, second = rotated.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return torch.cat((rotated * cos[:, None] + turned * sin[:, None], passed), dim=-1)


def _context(cache: Tensor, pages: Tensor, start: int, end: int) -> Tensor:
    """Keys or values of the tokens `start:end` of a sequence, `[K, tokens, D]`."""
    page_size = cache.shape[1]
    first_page, last_page = start // page_size, -(-end // page_size)
    rows = cache[pages[first_page:last_page]].flatten(0, 1)
    skipped = first_page * page_size
    return rows[start - skipped : end - skipped].transpose(0, 1)


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, first: int, scale: float, window: int | None
) -> Tensor:
    """Attention of one sequence's `query [n, H, D]`, row i at position `first + i` of `keys`.

    The H / K query heads of a key head are laid out as further rows of that head's queries.
    """
    num_tokens, num_heads, size = query.shape
    num_kv_heads = keys.shape[0]
    group = num_heads // num_kv_heads
    by_kv_head = query.reshape(num_tokens, num_kv_heads, group, size).transpose(0, 1)
    mask = _visible(num_tokens, keys.shape[1], first, window, query.device)
    if mask is not None:
        mask = mask.repeat_interleave(group, dim=0)
    mixed = F.scaled_dot_product_attention(
        by_kv_head.flatten(1, 2)[None], keys[None], values[None], attn_mask=mask, scale=scale
    )
    return mixed.reshape(by_kv_head.shape).transpose(0, 1).reshape(query.shape)


def _visible(
    num_queries: int, num_keys: int, first: int, window: int | None, device: torch.device
) -> Tensor | None:
    """Which keys each query sees, `[queries, keys]`; None where it is all of them."""
    if num_queries == 1:
        return None
    distance = torch.arange(first, first + num_queries, device=device)[:, None] - torch.arange(
        num_keys, device=device
    )
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)

"""Drives a model without the engine: sequences on scattered pages, in any chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

import torch
from torch import Tensor

from server.adapters.delta import TokenPairs
from server.kernels.interface import AttentionBatch
from server.model.kv_cache import allocate
from server.model.phi3 import Phi3
from server.model.step import Step

PAGE_SIZE = 4
NUM_PAGES = 96


@dataclass
class PagedSequence:
    """Tokens whose first `done` are in the cache."""

    token_ids: Tensor
    pages: list[int]
    done: int = 0


@dataclass
class PagedRun:
    """A model with a cache. A sequence's RoPE regime is that of all its tokens."""

    model: Phi3
    dtype: torch.dtype = torch.float32
    free_pages: list[int] = field(
        default_factory=lambda: Random(7).sample(range(NUM_PAGES), NUM_PAGES)
    )

    def __post_init__(self) -> None:
        self.cache = allocate(self.model.config, NUM_PAGES, PAGE_SIZE, self.dtype, "cpu")

    def add(self, token_ids: Tensor) -> PagedSequence:
        pages = [self.free_pages.pop() for _ in range(-(-len(token_ids) // PAGE_SIZE))]
        return PagedSequence(token_ids, pages)

    @torch.inference_mode()
    def step(
        self, chunks: Sequence[tuple[PagedSequence, int]], pairs: TokenPairs | None = None
    ) -> list[Tensor]:
        """Compute the next n tokens of each sequence; their logits `[n, vocab]`."""
        logits = self.model.logits(self.model.forward(self._step(chunks, pairs), self.cache), pairs)
        for sequence, num_tokens in chunks:
            sequence.done += num_tokens
        return list(logits.split([num_tokens for _, num_tokens in chunks]))

    def _step(self, chunks: Sequence[tuple[PagedSequence, int]], pairs: TokenPairs | None) -> Step:
        positions = [torch.arange(s.done, s.done + n) for s, n in chunks]
        tables = torch.zeros(len(chunks), max(len(s.pages) for s, _ in chunks), dtype=torch.int64)
        slots = []
        for row, ((sequence, _), own) in enumerate(zip(chunks, positions, strict=True)):
            tables[row, : len(sequence.pages)] = torch.tensor(sequence.pages)
            slots.append(tables[row, own // PAGE_SIZE] * PAGE_SIZE + own % PAGE_SIZE)
        regime = self.model.config.rope.regime
        regimes = [torch.full((n,), regime(len(s.token_ids))) for s, n in chunks]
        return Step(
            token_ids=torch.cat([s.token_ids[s.done : s.done + n] for s, n in chunks]),
            positions=torch.cat(positions),
            rope_regimes=torch.cat(regimes),
            attention=AttentionBatch(
                query_offsets=[0, *accumulate(n for _, n in chunks)],
                context_lengths=[s.done + n for s, n in chunks],
                block_tables=tables,
                slots=torch.cat(slots),
            ),
            pairs=pairs,
        )

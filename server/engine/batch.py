"""A scheduled batch as tensors: the step to compute, and the rows whose logits count."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from server.adapters.composition import ArrowRouter, Composition, prototypes_id
from server.adapters.delta import ResidentAdapter, TokenPairs, pair_tokens
from server.adapters.fused import UNFUSED, Fused
from server.adapters.routing import Mixture, RoutedMember
from server.engine.scheduled import ScheduledBatch, ScheduledSequence
from server.kernels.interface import AttentionBatch
from server.model.step import Step

FindAdapter = Callable[[str], ResidentAdapter]
ComposedRows = tuple[int, int, list[tuple[ResidentAdapter, float]]]  # first row, rows, members


def build_step(
    batch: ScheduledBatch, page_size: int, pairs: TokenPairs | None, device: torch.device
) -> Step:
    """Concatenate the batch's chunks; `pairs` are its `token_pairs`."""
    positions = torch.tensor([p for e in batch.entries for p in range(e.start, e.end)])
    tokens = torch.tensor([token for entry in batch.entries for token in entry.token_ids])
    rows = [row.row for row in logit_rows(batch)]
    lengths = torch.tensor([entry.num_tokens for entry in batch.entries])
    regimes = torch.tensor([entry.sequence.rope_regime for entry in batch.entries])
    wanted = None if len(rows) == len(tokens) else _indices(rows)
    return Step(
        token_ids=tokens.to(device),
        positions=positions.to(device),
        rope_regimes=regimes.repeat_interleave(lengths).to(device),
        attention=_attention(batch, page_size, device),
        pairs=pairs,
        wanted=None if wanted is None else wanted.to(device),
        wanted_pairs=pairs if pairs is None or wanted is None else pairs.select(wanted),
    )


def _indices(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


def _attention(batch: ScheduledBatch, page_size: int, device: torch.device) -> AttentionBatch:
    slots = [
        pages[place // page_size] * page_size + place % page_size
        for entry in batch.entries
        for pages in [entry.sequence.pages]
        for place in range(entry.start, entry.end)
    ]
    return AttentionBatch(
        query_offsets=query_offsets(batch),
        context_lengths=[entry.end for entry in batch.entries],
        block_tables=_block_tables(batch).to(device),
        slots=torch.tensor(slots, device=device),
    )


def _block_tables(batch: ScheduledBatch) -> Tensor:
    # By way of numpy, which reads lists of ints several times as fast as torch.
    widest = max(len(entry.sequence.pages) for entry in batch.entries)
    tables = np.zeros((len(batch.entries), widest), dtype=np.int64)
    for row, entry in enumerate(batch.entries):
        tables[row, : len(entry.sequence.pages)] = entry.sequence.pages
    return torch.from_numpy(tables)


def query_offsets(batch: ScheduledBatch) -> list[int]:
    """Rows of the step that belong to each entry, `[S + 1]`."""
    return list(accumulate((entry.num_tokens for entry in batch.entries), initial=0))


def token_pairs(
    batch: ScheduledBatch,
    find_adapter: FindAdapter,
    device: torch.device,
    fused: Fused = UNFUSED,
) -> TokenPairs | None:
    """Who takes how much of what; `find_adapter` gives what is resident by its digest.

    Tokens of the composition that is `fused` have no pairs; all others have its corrections too.
    """
    ranges: list[ComposedRows] = []
    routed: dict[tuple[ArrowRouter, Composition], list[int]] = defaultdict(list)
    for row, entry in zip(query_offsets(batch), batch.entries, strict=False):
        for length, composition in entry.sequence.composition_runs(entry.start, entry.end):
            if composition != fused.composition:
                members = _members(composition, find_adapter)
                ranges.append((row, length, [*members, *fused.corrections]))
            if composition.router is not None:
                routed[composition.router, composition] += range(row, row + length)
            row += length
    pairs = pair_tokens(ranges, device)
    if pairs is None or not routed:
        return pairs
    return pairs.with_routers(
        (_mixture(router, composition, find_adapter), rows)
        for (router, composition), rows in routed.items()
    )


def _members(
    composition: Composition, find_adapter: FindAdapter
) -> list[tuple[ResidentAdapter, float]]:
    return [(find_adapter(digest), coefficient) for digest, coefficient in composition.members]


def _mixture(router: ArrowRouter, composition: Composition, find_adapter: FindAdapter) -> Mixture:
    members = (
        RoutedMember(
            digest=digest,
            layers=find_adapter(digest).operands,
            directions=find_adapter(prototypes_id(digest)).directions,
        )
        for digest in composition.digests
    )
    return Mixture(router, tuple(members))


@dataclass(frozen=True, slots=True)
class LogitRow:
    """One row of the step whose logits are needed: to sample, or to score the next prompt token."""

    entry: ScheduledSequence
    row: int  # of the step
    position: int  # of the token in its sequence
    samples: bool


def logit_rows(batch: ScheduledBatch) -> list[LogitRow]:
    """Rows that need logits, in order: of a sequence with drafts, one to sample after each."""
    offsets = query_offsets(batch)
    return [
        LogitRow(entry, first + position - entry.start, position, samples)
        for first, entry in zip(offsets, batch.entries, strict=False)
        for position, samples in _logit_positions(entry)
    ]


def _logit_positions(entry: ScheduledSequence) -> Iterable[tuple[int, bool]]:
    sequence = entry.sequence
    if sequence.wants_prompt_logprobs:
        last = min(entry.end, sequence.num_prompt - 1)
        first = max(entry.start, sequence.next_scoring)
        yield from ((position, False) for position in range(first, last))
    if entry.samples:
        yield from ((position, True) for position in range(entry.known_end - 1, entry.end))

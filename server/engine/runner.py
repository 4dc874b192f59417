"""One forward pass and the choice of tokens. The only part of the engine that holds the model."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from server.adapters.delta import ResidentAdapter, TokenPairs
from server.adapters.fused import UNFUSED, Fused
from server.engine.batch import LogitRow, build_step, logit_rows, token_pairs
from server.engine.fuser import Fuser
from server.engine.sampler import LogitsRow, SampledToken, rows_of, sample, token_logprobs
from server.engine.scheduled import ScheduledBatch
from server.engine.sequence import TokenLogprobs
from server.kernels.stacked import Meanwhile
from server.model.kv_cache import KVCache
from server.model.phi3 import Phi3
from server.model.step import Step
from server.plan.steps import LOGIT_ROWS_AT_ONCE


@dataclass(slots=True)
class EntryResult:
    """What a step gave one scheduled sequence; with an `error`, the rest does not count."""

    sampled: list[SampledToken] = field(default_factory=list)  # one, and one for each right draft
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: Exception | None = None


class Runner(Protocol):
    """Computes a batch. Sequences are read, never written."""

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile) -> list[EntryResult]:
        """One result per entry, in order. `meanwhile` is called when the long computation begins;
        where there is none it may not be."""


class ModelRunner:
    """Runs batches on a model; `resident` gives the adapters that their requests hold leased."""

    def __init__(
        self,
        model: Phi3,
        cache: KVCache,
        page_size: int,
        resident: Callable[[str], ResidentAdapter],
        eos_token_ids: frozenset[int],
        fuser: Fuser | None = None,
    ) -> None:
        """Without a `fuser` weights stay as they are."""
        self.model = model
        self.cache = cache
        self.page_size = page_size
        self.device = cache.keys[0].device
        self.resident = resident
        self.eos_token_ids = eos_token_ids
        self.fuser = fuser

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
        if self.fuser is None:
            return self._run(batch, UNFUSED, meanwhile)
        try:
            fused = self.fuser.prepare(batch)
        except Exception as error:
            return self._run_beside_base(batch, self.fuser.undo(), error, meanwhile)
        return self._run(batch, fused, meanwhile)

    def _run_beside_base(
        self, batch: ScheduledBatch, unfused: Fused, error: Exception, meanwhile: Meanwhile
    ) -> list[EntryResult]:
        """What must be fused could not be: those that want it fail, all others are computed."""
        others = tuple(entry for entry in batch.entries if not entry.sequence.is_fused)
        computed = iter(self._run(ScheduledBatch(others), unfused, meanwhile) if others else ())
        return [
            EntryResult(error=error) if entry.sequence.is_fused else next(computed)
            for entry in batch.entries
        ]

    def _run(self, batch: ScheduledBatch, fused: Fused, meanwhile: Meanwhile) -> list[EntryResult]:
        pairs = token_pairs(batch, self.resident, self.device, fused)
        step = build_step(batch, self.page_size, pairs, self.device)
        hidden = self.model.forward(step, self.cache, meanwhile)
        results = {id(entry): EntryResult() for entry in batch.entries}
        rows = logit_rows(batch)
        for at in range(0, len(rows), LOGIT_ROWS_AT_ONCE):
            chunk = rows[at : at + LOGIT_ROWS_AT_ONCE]
            logits = self._logits(hidden[at : at + len(chunk)], step, chunk)
            summary = self.model.kernels.summarize(logits)
            for values, row in zip(rows_of(logits, summary), chunk, strict=True):
                self._read(values, row, results[id(row.entry)])
        return list(results.values())

    def _logits(self, hidden: Tensor, step: Step, rows: Seq[LogitRow]) -> Tensor:
        """Of `rows`, whose hidden states are given."""
        pairs = step.wanted_pairs
        if isinstance(pairs, TokenPairs) and len(rows) < step.num_wanted:
            assert isinstance(step.pairs, TokenPairs)
            pairs = step.pairs.select(torch.tensor([row.row for row in rows]))
        return self.model.logits(hidden, pairs)

    def _read(self, logits: LogitsRow, row: LogitRow, result: EntryResult) -> None:
        """Read one row of logits; a row that cannot be read fails its own request only."""
        try:
            if row.samples:
                self._choose(logits, row, result)
            else:
                _score(logits, row, result)
        except Exception as error:
            if not result.sampled:  # else what there is counts, and the next step fails
                result.error = error

    def _choose(self, logits: LogitsRow, row: LogitRow, result: EntryResult) -> None:
        """Choose the token after this row's, unless that was a draft, and wrong."""
        entry, request = row.entry, row.entry.sequence.request
        drafts = list(entry.drafts[: row.position + 1 - entry.known_end])
        if [earlier.token_id for earlier in result.sampled] != drafts:
            return
        output = entry.sequence.tokens[entry.sequence.num_prompt :] + drafts
        prompt, sampling = request.prompt_token_ids, request.sampling
        result.sampled.append(sample(logits, sampling, prompt, output, self.eos_token_ids))


def _score(logits: LogitsRow, row: LogitRow, result: EntryResult) -> None:
    """Score the prompt's token after this row's."""
    sequence = row.entry.sequence
    num_top = sequence.request.sampling.prompt_logprobs
    assert num_top is not None
    following = sequence.tokens[row.position + 1]
    result.prompt_logprobs.append(token_logprobs(logits, following, num_top))

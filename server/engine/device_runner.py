"""The runner of a device with memory of its own: one copy there, one back, and one wait a step.

Decode steps are recorded (`decoding.py`); prompts, and what no recording takes, are computed as
they come. Adapters may still be on their way: the device waits for those that a step needs. Token
ids, log-probabilities and draws are the host's, from the same three numbers a row, and from the
whole row of logits where a request needs more than the likeliest token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from server.adapters.composition import prototypes_id
from server.adapters.delta import ResidentAdapter, TokenPairs
from server.adapters.fused import Fused
from server.device.interface import Device, Stream
from server.device.transfers import Landing, send
from server.engine.batch import LogitRow, build_step, logit_rows, token_pairs
from server.engine.decoding import Computed, DecodeSteps, packed
from server.engine.fuser import Fuser
from server.engine.runner import EntryResult, ModelRunner
from server.engine.sampler import LogitsRow, reads_logits
from server.engine.scheduled import ScheduledBatch
from server.engine.step_inputs import DecodeForm, padding_prompt
from server.kernels.recorded import RecordableKernels
from server.kernels.stacked import Meanwhile
from server.model.kv_cache import KVCache
from server.model.phi3 import Phi3
from server.model.step import Step, StepPairs
from server.plan.steps import LOGIT_ROWS_AT_ONCE

HOST = torch.device("cpu")
WARM_TOKENS = 32  # more than a narrow tile of attention has, whatever the heads


class _Rows(NamedTuple):
    """Rows that are read, and where they are in what was computed."""

    rows: Sequence[LogitRow]
    places: Sequence[int]
    computed: Computed


class DeviceRunner(ModelRunner):
    """Runs batches on `device`, in `stream`. Its cache has `spare_pages` behind `form`'s own."""

    def __init__(
        self,
        model: Phi3,
        kernels: RecordableKernels,
        cache: KVCache,
        resident: Callable[[str], ResidentAdapter],
        eos_token_ids: frozenset[int],
        fuser: Fuser | None,
        device: Device,
        stream: Stream,
        form: DecodeForm,
        max_rows: int,
    ) -> None:
        super().__init__(model, cache, form.page_size, resident, eos_token_ids, fuser)
        self._kernels, self._form = kernels, form
        self._on, self._stream, self._usual = device, stream, device.usual()
        self._landing = Landing(device, stream)
        self._decoding = DecodeSteps(model, kernels, cache, device, form, max_rows)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Record what every server needs, and compile what prompts need beside it."""
        with self._stream.use():
            self._decoding.warm_up()
            step = self._sent(padding_prompt(self._form, WARM_TOKENS))
            self._kernels.summarize(self.model.logits(self.model.forward(step, self.cache), None))

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
        # Between steps this thread may have changed weights.
        self._stream.wait_for(self._usual.mark())
        for digest in _digests(batch):
            if (arrival := self.resident(digest).arrival) is not None:
                arrival.awaited_by(self._stream)
        try:
            with self._stream.use():
                return super().run(batch, meanwhile)
        except BaseException:
            # What it was given may still be read, and the next step writes there.
            self._stream.mark().wait()
            raise

    def _run(self, batch: ScheduledBatch, fused: Fused, meanwhile: Meanwhile) -> list[EntryResult]:
        pairs = token_pairs(batch, self.resident, HOST, fused)
        results = {id(entry): EntryResult() for entry in batch.entries}
        rows = logit_rows(batch)
        for own in self._compute(batch, pairs, rows, meanwhile):
            for values, row in zip(self._land(own), own.rows, strict=True):
                self._read(values, row, results[id(row.entry)])
        if not rows:  # a step is over when it is done, and then its numbers may be overwritten
            self._stream.mark().wait()
        return list(results.values())

    def _compute(
        self,
        batch: ScheduledBatch,
        pairs: TokenPairs | None,
        rows: Sequence[LogitRow],
        meanwhile: Meanwhile,
    ) -> Iterator[_Rows]:
        """Chunks of `rows`, whose numbers last until the next one is asked for.

        What is done meanwhile begins when the device has been told all that can be told at once.
        """
        if (computed := self._decoding.run(batch, pairs)) is not None:
            meanwhile()
            if rows:
                yield _Rows(rows, [row.row for row in rows], computed)
            return
        step = self._sent(build_step(batch, self.page_size, pairs, HOST))
        hidden = self.model.forward(step, self.cache)
        meanwhile()
        for at in range(0, len(rows), LOGIT_ROWS_AT_ONCE):
            chunk = rows[at : at + LOGIT_ROWS_AT_ONCE]
            logits = self._logits(hidden[at : at + len(chunk)], step, chunk)
            computed = Computed(logits, packed(self._kernels.summarize(logits)))
            yield _Rows(chunk, range(len(chunk)), computed)

    def _sent(self, step: Step) -> Step:
        """A step of the host on the device; of its pairs, what routers multiply."""
        attention, shape = step.attention, self._form.attention
        numbers = self._kernels.attention_numbers(len(step.token_ids), shape)
        work = np.zeros(numbers, np.int64)
        lengths = attention.context_lengths
        self._kernels.list_attention(work, attention.query_offsets, lengths, shape)
        own = [step.token_ids, step.positions, step.rope_regimes, attention.block_tables]
        own += [attention.slots, torch.from_numpy(work)]
        own += [] if step.wanted is None else [step.wanted]
        pairs, wanted_pairs = step.pairs, step.wanted_pairs
        shares = [_share_numbers(each) for each in (pairs, wanted_pairs)]
        sent = iter(send(self._on, [*own, *shares[0], *shares[1]]))
        ids, positions, regimes, tables, slots, listed, *wanted = islice(sent, len(own))
        return replace(
            step,
            token_ids=ids,
            positions=positions,
            rope_regimes=regimes,
            attention=replace(attention, block_tables=tables, slots=slots, work=listed),
            pairs=_with_share_numbers(pairs, list(islice(sent, len(shares[0])))),
            wanted=wanted[0] if wanted else None,
            wanted_pairs=_with_share_numbers(wanted_pairs, list(sent)),
        )

    def _land(self, own: _Rows) -> list[LogitsRow]:
        """What is read of the rows, on the host: in one copy, and the only wait."""
        logits, summary = own.computed
        read = [place for row, place in zip(own.rows, own.places, strict=True) if _reads(row)]
        whole = torch.cat([summary.view(-1), *(logits[place] for place in read)])
        landed = self._landing.fetch(whole if read else summary.view(-1))
        columns = landed[: summary.numel()].view(3, -1)[:, own.places].unbind()
        best, highest, log_sums = (column.tolist() for column in columns)
        vocabulary = logits.shape[1]
        found = dict(zip(read, landed[summary.numel() :].split(vocabulary), strict=False))
        nothing = landed[:0]
        return [
            LogitsRow(found.get(place, nothing), int(best[i]), highest[i], log_sums[i])
            for i, place in enumerate(own.places)
        ]


def _share_numbers(pairs: StepPairs | None) -> list[Tensor]:
    return pairs.share_numbers() if isinstance(pairs, TokenPairs) else []


def _with_share_numbers(pairs: StepPairs | None, numbers: list[Tensor]) -> StepPairs | None:
    return pairs.with_share_numbers(numbers) if isinstance(pairs, TokenPairs) else pairs


def _digests(batch: ScheduledBatch) -> set[str]:
    """Of everything resident that a step may use."""
    wanted = {entry.sequence.request.composition for entry in batch.entries}
    return {
        digest
        for composition in wanted
        for member in composition.digests
        for digest in ((member,) if composition.router is None else (member, prototypes_id(member)))
    }


def _reads(row: LogitRow) -> bool:
    """Whether more than the summary of a row is read."""
    sequence = row.entry.sequence
    num_output = row.position + 1 - sequence.num_prompt
    return not row.samples or reads_logits(sequence.request.sampling, num_output)

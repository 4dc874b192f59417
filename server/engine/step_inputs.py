"""The numbers of a decode step, where a recorded step finds them: one array, sent in one copy.

A decode step has one token of each sequence, B rows in all. Rows that no sequence has are padding:
token 0 at position 0, alone with itself in a spare page, changed by no adapter. Every row's answer
comes from that row alone, so nobody notices them.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch

from server.device.interface import Device
from server.device.transfers import aligned
from server.engine.scheduled import ScheduledSequence
from server.kernels.interface import AttentionBatch
from server.kernels.recorded import AttentionShape, Numbers, RecordableKernels
from server.model.step import Step, StepPairs


class DecodeForm(NamedTuple):
    """What all decode steps of a server have in common."""

    page_size: int
    max_pages: int  # of one sequence
    first_spare_page: int  # of `spare_pages` that no sequence ever has
    attention: AttentionShape


def padding_prompt(form: DecodeForm, num_tokens: int) -> Step:
    """A step of the host: one prompt that nobody asked for, in the first spare page."""
    size, first = form.page_size, form.first_spare_page
    places, nothing = torch.arange(num_tokens), torch.zeros(num_tokens, dtype=torch.int64)
    attention = AttentionBatch(
        query_offsets=[0, num_tokens],
        context_lengths=[num_tokens],
        block_tables=torch.full((1, -(-num_tokens // size)), first),
        slots=first * size + places % size,
    )
    return Step(nothing, places, nothing, attention, None)


class StepInputs:
    """The numbers of steps of up to `rows` sequences, and of `num_delta_numbers` of deltas."""

    def __init__(
        self,
        device: Device,
        kernels: RecordableKernels,
        form: DecodeForm,
        rows: int,
        num_delta_numbers: int,
    ) -> None:
        self._kernels, self._form, self.rows = kernels, form, rows
        lists = kernels.attention_numbers(rows, form.attention)
        sizes = (rows, rows, rows, rows, rows * form.max_pages, lists, num_delta_numbers)
        bounds = list(pairwise(accumulate(map(aligned, sizes), initial=0)))
        self._host = device.pinned(bounds[-1][1], torch.int64)
        self._there = torch.zeros(len(self._host), dtype=torch.int64, device=device.place)
        spans = [slice(start, start + n) for (start, _), n in zip(bounds, sizes, strict=True)]
        ids, positions, regimes, slots, tables, self._work, self._deltas = (
            self._host.numpy()[span] for span in spans
        )
        self._columns = (ids, positions, regimes, slots)
        self._tables = tables.reshape(rows, form.max_pages)
        self._host.zero_()
        self._places = [self._there[span] for span in spans]
        self._listed: list[list[int]] = [[]] * rows  # pages of each row, as they were written last
        self._lengths: list[int] = [1] * rows

    @property
    def delta_numbers(self) -> Numbers:
        """Of the host: what the deltas' kernels are to be told with the next step."""
        return self._deltas

    @property
    def placed_delta_numbers(self) -> torch.Tensor:
        """The same, where the device reads them."""
        return self._places[-1]

    def step(self, pairs: StepPairs | None) -> Step:
        """The step, whatever the numbers are, with `pairs` that change as the numbers do."""
        ids, positions, regimes, slots, tables, work, _ = self._places
        attention = AttentionBatch(
            query_offsets=range(self.rows + 1),
            context_lengths=self._lengths,
            block_tables=tables.view(self.rows, -1),
            slots=slots,
            work=work,
        )
        return Step(ids, positions, regimes, attention, pairs, wanted_pairs=pairs)

    def fill(self, entries: Sequence[ScheduledSequence]) -> None:
        """Write down the next step, of one token of each entry, but for its deltas."""
        size, first, padding = self._form.page_size, self._form.first_spare_page, len(entries)
        for row, entry in enumerate(entries):
            pages, place = entry.sequence.pages, entry.start
            slot = pages[place // size] * size + place % size
            numbers = (entry.token_ids[0], place, entry.sequence.rope_regime, slot)
            for column, number in zip(self._columns, numbers, strict=True):
                column[row] = number
            if pages != self._listed[row]:  # lists of the same numbers: compared in a microsecond
                self._tables[row, : len(pages)] = self._listed[row] = list(pages)
        for column in self._columns:
            column[padding:] = 0
        own = np.arange(padding, self.rows)
        self._columns[-1][padding:] = first * size + own
        self._tables[padding:, 0] = first + own // size
        self._listed[padding:] = [[]] * len(own)
        self._lengths[:] = [entry.end for entry in entries] + [1] * len(own)
        self._kernels.list_attention(
            self._work, range(padding + 1), self._lengths[:padding], self._form.attention
        )

    def send(self) -> None:
        """Have the device read what is written down, after all that it was given before."""
        self._there.copy_(self._host, non_blocking=True)

"""Which work a step's deltas are to the kernels: numbers for device memory, all of its layers'.

Pure bookkeeping on the host: what the numbers mean is in `table.py`. A *product* is what one slot
makes of one pair: a row of a scratch as wide as a layer. Products lie by segment, then by slot, and
`sums` has them by token: whoever adds a token's as they come adds them in digest order.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from server.kernels.gpu.forms import Form, form_of
from server.kernels.gpu.operands import Work
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.slots import Slot
from server.kernels.gpu.table import JOB_NUMBERS, LAUNCH_NUMBERS, SLOT_NUMBERS, SUM_NUMBERS
from server.kernels.recorded import Capacity


class Segment(NamedTuple):
    """An adapter's slots, and the pairs of a step that they are for."""

    slots: Sequence[Slot]
    first: int
    past: int


def segments_of(slots: Sequence[Sequence[Slot]], offsets: Sequence[int]) -> list[Segment]:
    """Those that change anything, of the adapters of a `DeltaBatch`."""
    spans = zip(slots, pairwise(offsets), strict=True)
    return [Segment(own, first, past) for own, (first, past) in spans if own and first < past]


@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """What a step is to the kernels, whatever the layer."""

    num_inner: int  # numbers that first factors leave for second ones
    slots: tuple[Slot, ...]
    slot_numbers: Numbers  # [slots, SLOT_NUMBERS]
    jobs: dict[Form, Numbers]  # [jobs, 2] of each form that is used
    inner_rows: dict[Form, int]  # the most rows of any first factor
    sums: Numbers  # [products, SUM_NUMBERS], by token
    starts: Numbers  # [tokens + 1], where each token's begin

    @property
    def capacity(self) -> Capacity:
        """What it takes, but for pairs."""
        return Capacity(
            tokens=len(self.starts) - 1,
            pairs=0,
            slots=len(self.slots),
            products=len(self.sums),
            inner=self.num_inner,
        )


def list_work(segments: Sequence[Segment], tokens: Numbers, rows: range) -> WorkList:
    """The work of `segments`, whose pairs are of `tokens [pairs]`, all of them in `rows`."""
    listing = _Listing()
    for segment in segments:
        listing.add(segment)
    return listing.done(tokens, rows)


class _Listing:
    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self._numbers: list[list[int]] = []
        self._jobs: dict[Form, list[Numbers]] = defaultdict(list)
        self._inner_rows: dict[Form, int] = defaultdict(int)
        self._sums = [np.zeros((0, SUM_NUMBERS.value), np.int64)]
        self._num_products = self._num_inner = 0

    def add(self, segment: Segment) -> None:
        source, count = 0, segment.past - segment.first
        for slot in segment.slots:
            if slot.is_inner:
                source = self._num_inner
                self._add_slot(slot, segment, target=source)
                self._num_inner += count * slot.num_rows
            else:
                self._sums.append(self._sums_of(segment))
                self._add_slot(slot, segment, row=self._num_products, source=source)
                self._num_products += count

    def _sums_of(self, segment: Segment) -> Numbers:
        count = segment.past - segment.first
        sums = np.zeros((count, SUM_NUMBERS.value), np.int64)
        sums[:, 0] = np.arange(self._num_products, self._num_products + count)
        sums[:, 1] = np.arange(segment.first, segment.past)
        sums[:, 2] = len(self._slots)
        return sums

    def _add_slot(
        self, slot: Slot, segment: Segment, target: int = 0, row: int = 0, source: int = 0
    ) -> None:
        count = segment.past - segment.first
        if slot.kind is not None:
            form = form_of(slot.kind, count)
            starts = np.arange(0, count, form.num_tokens)
            self._jobs[form].append(np.stack((np.full_like(starts, len(self._slots)), starts), 1))
            if slot.is_inner:
                self._inner_rows[form] = max(self._inner_rows[form], slot.num_rows)
        self._slots.append(slot)
        self._numbers.append([segment.first, count, target, row, source, 0])

    def done(self, tokens: Numbers, rows: range) -> WorkList:
        sums = np.concatenate(self._sums)
        own = tokens[sums[:, 1]]
        order = np.argsort(own, kind="stable")
        return WorkList(
            self._num_inner,
            tuple(self._slots),
            np.array(self._numbers, np.int64).reshape(-1, SLOT_NUMBERS.value),
            {form: np.concatenate(jobs) for form, jobs in self._jobs.items()},
            self._inner_rows,
            sums[order],
            np.searchsorted(own[order], np.arange(rows.start, rows.stop + 1)),
        )


def launches_of(work: WorkList, forms: Sequence[Form], num_rows: Sequence[int]) -> Numbers:
    """First job, past job and tiles of every one of `forms`, `[len(num_rows), forms, 4]`.

    Jobs lie by form. Layers of the same number of rows share a row.
    """
    launches = np.zeros((len(num_rows), len(forms), LAUNCH_NUMBERS.value), np.int64)
    counts = [len(work.jobs.get(form, ())) for form in forms]
    launches[:, :, 1] = np.cumsum(counts)
    launches[:, :, 0] = launches[:, :, 1] - counts
    for at, form in enumerate(forms):
        is_inner = form.work is Work.LOW_RANK_A
        rows = [work.inner_rows.get(form, 0)] * len(num_rows) if is_inner else num_rows
        launches[:, at, 2] = [form.num_items(own) for own in rows]
    return launches


def jobs_of(work: WorkList, forms: Sequence[Form]) -> Numbers:
    """The jobs of `forms`, behind each other."""
    empty = np.zeros((0, JOB_NUMBERS.value), np.int64)
    return np.concatenate([empty, *(work.jobs[form] for form in forms if form in work.jobs)])


def chunks(
    segments: Sequence[Segment], tokens: Numbers, num_tokens: int, most: int
) -> Iterator[tuple[range, list[Segment]]]:
    """The step in ranges of rows with at most `most` products each, if a row alone has no more."""
    counts = np.zeros(num_tokens, np.int64)
    for slots, first, past in segments:
        counts[tokens[first:past]] += sum(not slot.is_inner for slot in slots)
    past_products = counts.cumsum()
    row = 0
    while row < num_tokens:
        before = past_products[row] - counts[row]
        past_row = int(np.searchsorted(past_products, before + most, side="right"))
        rows = range(row, max(row + 1, past_row))
        yield rows, [own for segment in segments for own in _within(segment, tokens, rows)]
        row = rows.stop


def _within(segment: Segment, tokens: Numbers, rows: range) -> list[Segment]:
    own = tokens[segment.first : segment.past]
    first, past = (segment.first + int(at) for at in np.searchsorted(own, [rows.start, rows.stop]))
    return [Segment(segment.slots, first, past)] if first < past else []

"""Which work a mixed batch is to the kernels of deltas: numbers in device memory, and launches.

Each part of each operand's product is a row of the table, by ascending segment. Parts that one
form of one kernel multiplies make one launch. Pure bookkeeping on the host: what the numbers mean
is in `table.py`, and they go to the device in one copy.

A *product* is what one operand makes of one pair: a row of a scratch `[products, out]`. Products
lie by segment, then by operand, so whoever adds a token's as they come adds them in digest order.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from server.kernels.gpu.forms import Form, form_of
from server.kernels.gpu.operands import GpuOperand, Part, Work
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.table import COUNT, NUM_COLUMNS, PAIR, SOURCE, TARGET
from server.kernels.interface import Operand

ORDER = {work: place for place, work in enumerate(Work)}  # of launches


class Other(NamedTuple):
    """An operand that no kernel of this folder multiplies, and where its products go."""

    operand: Operand
    first_product: int
    pairs: slice


class DeviceWork(NamedTuple):
    """The numbers of a work list, in device memory."""

    table: Tensor  # [parts, NUM_COLUMNS]
    jobs: Tensor  # [jobs, 2]
    launches: Tensor  # [launches, 3]
    pairs: Tensor  # [products], the pair of each


@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """What a mixed batch is to one linear layer."""

    num_products: int
    num_inner: int  # numbers that the first factors of low-rank deltas leave for the second
    forms: tuple[Form, ...]  # by launch, in the order in which they must run
    others: tuple[Other, ...]
    numbers: tuple[Numbers, ...]  # those of `DeviceWork`

    def placed(self, device: torch.device) -> DeviceWork:
        """The numbers on `device`."""
        sizes = [array.size for array in self.numbers]
        whole = torch.from_numpy(np.concatenate([array.ravel() for array in self.numbers]))
        parts = whole.to(device, non_blocking=True).split(sizes)
        shaped = zip(parts, self.numbers, strict=True)
        return DeviceWork(*(part.view(array.shape) for part, array in shaped))


def list_work(
    operands: Sequence[Sequence[Operand]], offsets: Sequence[int], num_rows: int
) -> WorkList:
    """The work of a `DeltaBatch`'s segments on a weight of `num_rows` rows."""
    listing = _Listing(num_rows)
    for own, (first, past) in zip(operands, pairwise(offsets), strict=True):
        for operand in own if first < past else ():
            listing.add(operand, first, past)
    return listing.done()


class _Listing:
    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: list[Numbers] = []
        self._jobs: dict[Form, list[tuple[int, int]]] = defaultdict(list)
        self._items: dict[Form, int] = defaultdict(int)  # of each job
        self._others: list[Other] = []
        self._pairs: list[Numbers] = []
        self._num_products = self._num_inner = 0

    def add(self, operand: Operand, first: int, past: int) -> None:
        """Of the pairs from `first` to `past`."""
        if isinstance(operand, GpuOperand):
            *inner, last = operand.parts
            for part in inner:
                self._add_part(part, first, past, self._num_inner)
            self._add_part(last, first, past, self._num_products * self._num_rows)
            self._num_inner += (past - first) * sum(part.num_rows for part in inner)
        else:
            self._others.append(Other(operand, self._num_products, slice(first, past)))
        self._pairs.append(np.arange(first, past))
        self._num_products += past - first

    def _add_part(self, part: Part, first: int, past: int, target: int) -> None:
        row = part.row.copy()
        row[TARGET], row[SOURCE] = target, self._num_inner
        row[PAIR], row[COUNT] = first, past - first
        form = form_of(part, past - first)
        for start in range(0, past - first, form.num_tokens):
            self._jobs[form].append((len(self._rows), start))
        self._items[form] = max(self._items[form], form.num_items(part.num_rows))
        self._rows.append(row)

    def done(self) -> WorkList:
        forms = sorted(self._jobs, key=lambda form: ORDER[form.work])
        jobs = [job for form in forms for job in self._jobs[form]]
        firsts = np.cumsum([0, *(len(self._jobs[form]) for form in forms)])
        items = [self._items[form] for form in forms]
        launches = [*zip(firsts, firsts[1:], items, strict=False)]
        return WorkList(
            self._num_products,
            self._num_inner,
            tuple(forms),
            tuple(self._others),
            (
                np.array(self._rows, np.int64).reshape(-1, NUM_COLUMNS.value),
                np.array(jobs, np.int64).reshape(-1, 2),
                np.array(launches, np.int64).reshape(-1, 3),
                np.concatenate([np.zeros(0, np.int64), *self._pairs]),
            ),
        )

"""Where the numbers of a step's deltas lie behind each other, on the host and on the device.

Regions have the size of a capacity, so a step of any content has them at the same places, and a
kernel at the same addresses. Each begins at 16 bytes, if the first does. What a step leaves of a
region holds anything: nobody reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.kernels.gpu.forms import Form
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.table import (
    JOB_NUMBERS,
    LAUNCH_NUMBERS,
    PART_NUMBERS,
    SLOT_NUMBERS,
    SUM_NUMBERS,
)
from server.kernels.gpu.worklists import WorkList, jobs_of, launches_of
from server.kernels.recorded import BeyondCapacity, Capacity


class Regions(NamedTuple):
    """The numbers of a step, 64-bit integers all."""

    tokens: Any  # [pairs]
    coefficients: Any  # [half of pairs], two fp32 numbers each
    starts: Any  # [tokens + 1]
    sums: Any  # [products, SUM_NUMBERS]
    slots: Any  # [slots, SLOT_NUMBERS]
    jobs: Any  # [jobs, JOB_NUMBERS]
    launches: Any  # [groups of layers, forms, LAUNCH_NUMBERS]
    parts: Any  # [layers, slots, PART_NUMBERS]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Of steps of one capacity, in all layers."""

    capacity: Capacity
    forms: tuple[Form, ...]
    group_rows: tuple[int, ...]  # rows of the layers of each group
    num_layers: int

    @property
    def num_numbers(self) -> int:
        return sum(map(_size, self._shapes()))

    def host_regions(self, numbers: Numbers) -> Regions:
        """Views of `numbers [num_numbers]`."""
        return self._regions(numbers)

    def device_regions(self, numbers: Tensor) -> Regions:
        assert numbers.data_ptr() % 16 == 0, "kernels were compiled for aligned numbers"
        assert numbers.dtype == torch.int64
        return self._regions(numbers)

    def _regions(self, numbers: Any) -> Regions:
        assert len(numbers) == self.num_numbers
        shapes = self._shapes()
        ends = accumulate(map(_size, shapes))
        return Regions(
            *(
                numbers[end - _size(shape) : end][: prod(shape)].reshape(shape)
                for end, shape in zip(ends, shapes, strict=True)
            )
        )

    def _shapes(self) -> Regions:
        own = self.capacity
        return Regions(
            tokens=(own.pairs,),
            coefficients=(-(-own.pairs // 2),),
            starts=(own.tokens + 1,),
            sums=(own.products, SUM_NUMBERS.value),
            slots=(own.slots, SLOT_NUMBERS.value),
            jobs=(2 * own.products, JOB_NUMBERS.value),  # a factor before a product has jobs too
            launches=(len(self.group_rows), len(self.forms), LAUNCH_NUMBERS.value),
            parts=(self.num_layers, own.slots, PART_NUMBERS.value),
        )

    def check(self, work: WorkList, num_pairs: int) -> None:
        """Raises BeyondCapacity for a step that does not fit."""
        needed = work.capacity._replace(pairs=num_pairs)
        for what, needs, has in zip(Capacity._fields, needed, self.capacity, strict=True):
            if needs > has:
                raise BeyondCapacity(what, needs, has)
        for form in work.jobs:
            if form not in self.forms:
                raise BeyondCapacity("kinds", form, self.forms)

    def write(
        self, numbers: Numbers, work: WorkList, tokens: Numbers, coefficients: NDArray[np.float32]
    ) -> None:
        """Write a step that was checked, and whose work was listed for all of the tokens."""
        regions = self.host_regions(numbers)
        _fill(regions.tokens, tokens)
        regions.coefficients.view(np.float32)[: len(coefficients)] = coefficients
        _fill(regions.starts, work.starts)
        _fill(regions.sums, work.sums)
        _fill(regions.slots, work.slot_numbers)
        _fill(regions.jobs, jobs_of(work, self.forms))
        regions.launches[:] = launches_of(work, self.forms, self.group_rows)
        if work.slots:
            parts = np.stack([slot.parts for slot in work.slots], axis=1)
            regions.parts[:, : len(work.slots)] = parts


def coefficients_of(regions: Regions, capacity: Capacity) -> Tensor:
    """Those of a step on the device, `[pairs]` in fp32."""
    numbers: Tensor = regions.coefficients
    return numbers.view(torch.float32)[: capacity.pairs]


def _fill(region: Numbers, numbers: Numbers) -> None:
    region[: len(numbers)] = numbers


def _size(shape: Sequence[int]) -> int:
    return -(-prod(shape) // 2) * 2

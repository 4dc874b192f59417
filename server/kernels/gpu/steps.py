"""The deltas of a whole step, described to the device at once for all of its layers.

For steps that are recorded: buffers that stay where they are, of a capacity, and launches that
depend on nothing but the kinds of operands. What is beyond the capacity is refused before anything
is written. Knows neither how steps are recorded nor when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from server.kernels.gpu.deltas import LayerWork, parted, scratch_size
from server.kernels.gpu.forms import forms_of
from server.kernels.gpu.layout import Layout, Regions, coefficients_of
from server.kernels.gpu.operands import Kind
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.slots import SlotFiling, slots_of
from server.kernels.gpu.worklists import list_work, segments_of
from server.kernels.interface import DeltaBatch
from server.kernels.recorded import Capacity, LayerOperands


@dataclass(frozen=True, slots=True, eq=False)
class PreparedDeltas(DeltaBatch):
    """A layer's deltas whose work lies on the device; `operands` and `offsets` are there too."""

    work: LayerWork


class GpuStepDeltas:
    """The deltas of one recorded step: rows of `x` are exactly `capacity.tokens`."""

    def __init__(
        self,
        layers: Mapping[str, int],
        capacity: Capacity,
        kinds: frozenset[Kind],
        filing: SlotFiling,
        device: torch.device,
    ) -> None:
        """`layers` have so many rows each, in the order in which `filing` has them."""
        groups = tuple(sorted(set(layers.values())))
        self._layout = Layout(capacity, forms_of(kinds, capacity.tokens), groups, len(layers))
        self._places = {name: at for at, name in enumerate(layers)}
        self._groups = {name: groups.index(rows) for name, rows in layers.items()}
        self._filing = filing
        size = scratch_size(capacity.inner, capacity.products, max(groups, default=0))
        self._scratch = torch.empty(size, device=device)
        self._regions: Regions | None = None

    @property
    def num_numbers(self) -> int:
        """How many 64-bit numbers describe a step."""
        return self._layout.num_numbers

    def write(
        self,
        numbers: Numbers,
        operands: Sequence[LayerOperands],
        offsets: Sequence[int],
        tokens: Tensor,
        coefficients: Tensor,
    ) -> None:
        """Describe segments in `numbers [num_numbers]`, on the host, as `DeltaBatch` has them.

        `operands` are those of every segment's adapter. Raises BeyondCapacity.
        """
        slots = [self._filing.slots_of(own) for own in operands]
        own, rows = tokens.numpy(), range(self._layout.capacity.tokens)
        assert own.max(initial=-1) < rows.stop, "a pair of a row that the step has not"
        work = list_work(segments_of(slots, offsets), own, rows)
        self._layout.check(work, len(own))
        self._layout.write(numbers, work, own, coefficients.numpy())

    def place(self, numbers: Tensor) -> None:
        """From now on the device reads `numbers [num_numbers]`, in its own memory, at 16 bytes."""
        self._regions = self._layout.device_regions(numbers)

    def layer(self, name: str) -> PreparedDeltas:
        """What `linear` takes for a layer; for rows of the step, all of them."""
        own = self._regions
        assert own is not None, "numbers have no place yet"
        inner, products = parted(self._scratch, self._layout.capacity.inner)
        work = LayerWork(
            self._layout.forms,
            own.tokens,
            own.starts,
            own.sums,
            own.slots,
            own.jobs,
            own.launches[self._groups[name]],
            own.parts[self._places[name]],
            inner,
            products,
        )
        coefficients = coefficients_of(own, self._layout.capacity)
        return PreparedDeltas((), (0,), own.tokens, coefficients, work)


def needs(
    operands: Sequence[LayerOperands], offsets: Sequence[int], num_tokens: int
) -> tuple[Capacity, frozenset[Kind]]:
    """What a step takes at least, and the kinds of its operands. Raises BeyondCapacity if never."""
    slots = [slots_of(own, tuple(own)) for own in operands]
    nowhere = np.zeros(offsets[-1], np.int64)
    work = list_work(segments_of(slots, offsets), nowhere, range(num_tokens))
    kinds = frozenset(slot.kind for slot in work.slots if slot.kind is not None)
    return work.capacity._replace(pairs=offsets[-1]), kinds

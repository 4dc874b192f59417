"""What kernels offer whose steps are recorded once and then repeated with other numbers.

A recorded step finds all that changes in device memory, at addresses that never do. So its deltas
are no `DeltaBatch` of the moment: the kernels say how many numbers describe them, write them on
the host, and are told where the device has them. Knows neither adapters nor how a step is sent.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.kernels.interface import DeltaBatch, Kernels, Operand

Numbers = NDArray[np.int64]
LayerOperands = Mapping[str, Sequence[Operand]]  # of one adapter, by linear layer


class Capacity(NamedTuple):
    """What a recorded step's buffers take."""

    tokens: int  # rows of the step
    pairs: int  # (token, adapter) pairs
    slots: int  # kinds of operand of each of the step's adapters, summed over them
    products: int  # what an operand makes of a pair, each as wide as the widest layer
    inner: int  # fp32 numbers between the factors of low-rank deltas


class BeyondCapacity(Exception):
    """A step needs `needed` of `what`, where `capacity` is all there can be."""

    def __init__(self, what: str, needed: object, capacity: object) -> None:
        self.what, self.needed, self.capacity = what, needed, capacity
        super().__init__(f"a recorded step has {capacity} {what}, and {needed} are needed")


class StepDeltas(Protocol):
    """The deltas of one recorded step."""

    @property
    def num_numbers(self) -> int:
        """How many numbers describe them, whatever they are."""

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

    def place(self, numbers: Tensor) -> None:
        """From now on the device reads `numbers [num_numbers]`, in its own memory."""

    def layer(self, name: str) -> DeltaBatch:
        """What `linear` takes for a layer; for rows of the step, all of them."""


class AttentionShape(NamedTuple):
    """What attention's list depends on beside the sequences."""

    group: int  # query heads of a key head
    sliding_window: int | None


@runtime_checkable
class RecordableKernels(Kernels, Protocol):
    """Kernels that, given such lists, neither wait for the device nor read of a step's host.

    The tokens and coefficients of every `DeltaBatch` that they are given lie on the host.
    """

    def attention_numbers(self, max_tokens: int, shape: AttentionShape) -> int:
        """How many numbers list the attention of a step of up to so many tokens."""

    def list_attention(
        self,
        numbers: Numbers,
        query_offsets: Sequence[int],
        context_lengths: Sequence[int],
        shape: AttentionShape,
    ) -> None:
        """List it in `numbers`, on the host, for `AttentionBatch.work`; the same for all layers.

        Rows of the step behind the last offset are padding: nobody reads what they get.
        """

    def needs(
        self, operands: Sequence[LayerOperands], offsets: Sequence[int], num_tokens: int
    ) -> tuple[Capacity, frozenset[Hashable]]:
        """What a step takes, and the kinds of its operands. Raises BeyondCapacity if never."""

    def step_deltas(
        self, layers: Mapping[str, int], capacity: Capacity, kinds: frozenset[Hashable]
    ) -> StepDeltas:
        """For recorded steps; `layers` have so many rows each."""

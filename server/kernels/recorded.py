"""What kernels offer whose steps are recorded once and then repeated with other numbers.

A recorded step finds all that changes in device memory, at addresses that never do. So its deltas
are no `DeltaBatch` of the moment: the kernels say how many numbers describe them, write them on
the host, and are given them where the device reads them. Knows neither adapters nor batches.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.kernels.interface import DeltaBatch, Kernels, Operand

Numbers = NDArray[np.int64]


class OperandTable(Protocol):
    """Where kernels find the operands of one adapter, by layer."""

    @property
    def num_bytes(self) -> int:
        """Bytes held on the device."""


class Segment(NamedTuple):
    """The rows of a step that one adapter changes, ascending, and by how much each."""

    table: OperandTable
    rows: Sequence[int]
    coefficients: Sequence[float]


class StepDeltas(Protocol):
    """The deltas of one recorded step, whose numbers of tokens and pairs are bounded."""

    @property
    def num_numbers(self) -> int:
        """How many numbers describe them, whatever they are."""

    def write(self, numbers: Numbers, segments: Sequence[Segment]) -> bool:
        """Describe segments, in digest order, in `numbers [num_numbers]` of the host.

        False where they are more than the step was recorded for.
        """

    def place(self, numbers: Tensor) -> Mapping[str, DeltaBatch]:
        """By linear layer, what `linear` takes that finds them in `numbers`, of the device."""


class RecordableKernels(Kernels, Protocol):
    """Kernels that neither wait for the device nor read a step from the host, if it has tables."""

    def tabulate(self, operands: Mapping[str, tuple[Operand, ...]]) -> OperandTable | None:
        """A table of an adapter's operands; None where it must be computed unrecorded."""

    def step_deltas(self, max_tokens: int, max_pairs: int) -> StepDeltas:
        """For recorded steps of so many tokens and (token, adapter) pairs."""

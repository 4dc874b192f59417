"""One forward pass's context, handed down as an argument."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from server.kernels.interface import AttentionBatch, DeltaBatch
from server.kernels.stacked import FixedPairs


class StepPairs(Protocol):
    """Which tokens take how much of which adapter (`TokenPairs`, or those of a recorded step)."""

    def for_layer(self, name: str, x: Tensor) -> DeltaBatch | None:
        """The deltas of the linear layer `name`, whose input is `x [T, in]`; None without any."""

    @property
    def fixed(self) -> FixedPairs | None:
        """The pairs, if they are the same in every layer, whatever its input."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The T tokens of one step; those of one sequence lie side by side, in order."""

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, of each token in its own sequence
    rope_regimes: Tensor  # [T] int64, of the sequence (`RopeConfig.regime`)
    attention: AttentionBatch
    pairs: StepPairs | None  # None where no token has an adapter
    wanted: Tensor | None = None  # [n] int64, ascending: rows to give hidden states of; None: all
    wanted_pairs: StepPairs | None = None  # of the wanted rows, as rows `[0, n)`

    @property
    def num_wanted(self) -> int:
        """Rows that hidden states are given of."""
        return len(self.token_ids if self.wanted is None else self.wanted)

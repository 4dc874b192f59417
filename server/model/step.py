"""One forward pass's context, handed down as an argument."""

from dataclasses import dataclass

from torch import Tensor

from server.adapters.delta import TokenPairs
from server.kernels.interface import AttentionBatch


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The T tokens of one step; those of one sequence lie side by side, in order."""

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, of each token in its own sequence
    rope_regimes: Tensor  # [T] int64, of the sequence (`RopeConfig.regime`)
    attention: AttentionBatch
    pairs: TokenPairs | None  # None where no token has an adapter
    wanted: Tensor | None = None  # [n] int64, ascending: rows to give hidden states of; None: all

"""The adapters of one step: resident operands, and which token takes how much of which adapter.

Turns the step's compositions into the `DeltaBatch` of each linear layer. Knows neither what an
operand holds (the kernels do) nor when an adapter comes and goes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from adapters_store.adapter import SparseAdapter
from server.kernels.interface import DeltaBatch, Kernels, Operand


@dataclass(frozen=True, slots=True, eq=False)
class ResidentAdapter:
    """An adapter in the memory of the device that computes."""

    digest: str
    operands: Mapping[str, tuple[Operand, ...]]  # by linear layer; untouched layers are absent
    num_bytes: int


def resident_bytes(adapter: SparseAdapter, kernels: Kernels) -> int:
    """Bytes of `adapter` on the device, known before it is laid out."""
    return sum(kernels.operand_bytes(delta) for delta in adapter.deltas)


def make_resident(digest: str, adapter: SparseAdapter, kernels: Kernels) -> ResidentAdapter:
    """Lay out every delta of `adapter` for `kernels`, on their device, to be known by `digest`."""
    operands: dict[str, tuple[Operand, ...]] = {}
    for delta in adapter.deltas:
        operands[delta.layer] = (*operands.get(delta.layer, ()), kernels.operand(delta))
    num_bytes = sum(operand.num_bytes for operand in chain(*operands.values()))
    return ResidentAdapter(digest, operands, num_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class TokenPairs:
    """(token, adapter, coefficient) pairs of a step, grouped by adapter in digest order.

    The pairs of `adapters[i]` are `offsets[i]:offsets[i + 1]`; their tokens ascend, each once.
    """

    adapters: tuple[ResidentAdapter, ...]
    offsets: tuple[int, ...]  # [num_adapters + 1]
    tokens: Tensor  # [num_pairs] int64, rows of the step
    coefficients: Tensor  # [num_pairs] fp32, or [num_layers, num_pairs] where they differ by layer

    def for_layer(self, name: str, layer: int) -> DeltaBatch | None:
        """The deltas of the linear layer `name`; None where no adapter of the step touches it.

        `layer` is the decoder layer whose coefficients count; `lm_head` counts with the last.
        """
        operands = [adapter.operands.get(name, ()) for adapter in self.adapters]
        if not any(operands):
            return None
        by_layer = self.coefficients.dim() == 2
        coefficients = self.coefficients[layer] if by_layer else self.coefficients
        return DeltaBatch(operands, self.offsets, self.tokens, coefficients)

    def select(self, rows: Tensor) -> "TokenPairs | None":
        """The pairs of the step's rows `rows` (ascending), their tokens now positions in `rows`."""
        is_kept = torch.isin(self.tokens, rows)
        kept_before = [0, *is_kept.cumsum(0).tolist()]
        if kept_before[-1] == 0:
            return None
        return TokenPairs(
            self.adapters,
            tuple(kept_before[offset] for offset in self.offsets),
            torch.searchsorted(rows, self.tokens[is_kept]),
            self.coefficients[..., is_kept],
        )


Members = Sequence[tuple[ResidentAdapter, float]]


def pair_tokens(
    compositions: Sequence[tuple[int, int, Members]], device: torch.device | str = "cpu"
) -> TokenPairs | None:
    """The pairs of a step, from (first row, number of rows, adapters with their coefficients).

    The ranges of rows ascend without overlap; rows in none of them are the base's. No adapter
    comes twice in a composition. None where no row has an adapter.
    """
    adapters: dict[str, ResidentAdapter] = {}
    tokens: dict[str, list[int]] = defaultdict(list)
    coefficients: dict[str, list[float]] = defaultdict(list)
    for first, num_rows, composition in compositions:
        for adapter, coefficient in composition:
            adapters[adapter.digest] = adapter
            tokens[adapter.digest] += range(first, first + num_rows)
            coefficients[adapter.digest] += [coefficient] * num_rows
    if not adapters:
        return None
    digests = sorted(adapters)
    return TokenPairs(
        tuple(adapters[digest] for digest in digests),
        (0, *accumulate(len(tokens[digest]) for digest in digests)),
        torch.tensor([t for d in digests for t in tokens[d]], dtype=torch.int64, device=device),
        torch.tensor([c for d in digests for c in coefficients[d]], device=device),
    )

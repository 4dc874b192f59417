"""Long prompts: rows whose sparse deltas are multiplied as one matrix (`scratch.py` says when).

What is decided for a range of rows depends on nothing but that range and its adapters. A bias, a
dense or a low-rank delta is left to the products by entry, for these rows as for the others.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.kernels.gpu.entries import SPARSE
from server.kernels.gpu.operands import GpuOperand
from server.kernels.gpu.scratch import MatrixCosts, Scratch
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.slots import layer_slots
from server.kernels.gpu.worklists import Segment
from server.kernels.interface import DeltaBatch, Operand

ABSENT = np.float32(np.inf)  # no coefficient


class Range(NamedTuple):
    """Consecutive rows of a step that have the same adapters, in the same shares."""

    rows: range
    shares: tuple[tuple[int, float], ...]  # segment and coefficient


class LongPrompts:
    """Adds what is long, and says what is left."""

    def __init__(
        self, costs: MatrixCosts, scratch: Scratch, product: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """`product(x, weight)` is `x @ weight.T` in fp32."""
        self.scratch = scratch
        self._costs = costs
        self._product = product
        self._last: tuple[Tensor, Tensor, list[Range]] | None = None

    def add(self, base: Tensor, x: Tensor, deltas: DeltaBatch) -> list[Segment]:
        """Add to `base [T, out]`, in fp32, what is multiplied as a matrix. The rest is returned.

        A router's shares differ from row to row, so nothing of it is.
        """
        taken: dict[int, list[range]] = defaultdict(list)
        if deltas.coefficients.device == deltas.tokens.device:  # on the host: no router's
            for own in self._ranges(deltas, len(x)):
                if self._add_range(base, x, own, deltas.operands):
                    for segment, _ in own.shares:
                        taken[segment].append(own.rows)
        return _left(deltas, taken, base.shape[1])

    def _ranges(self, deltas: DeltaBatch, num_tokens: int) -> list[Range]:
        """Found once for a step: its layers have the same pairs."""
        pairs = deltas.tokens, deltas.coefficients
        if self._last is None or not (self._last[0] is pairs[0] and self._last[1] is pairs[1]):
            self._last = *pairs, ranges_of(deltas, num_tokens)
        return self._last[2]

    def _add_range(
        self, base: Tensor, x: Tensor, own: Range, operands: Sequence[Sequence[Operand]]
    ) -> bool:
        shares = [(each, share) for at, share in own.shares for each in _sparse(operands[at])]
        shape = base.shape[1], x.shape[1]
        if not self._costs.pays((each for each, _ in shares), shape, len(own.rows)):
            return False
        matrix = self.scratch.matrix(shape, x)
        for each, share in shares:
            self.scratch.add(matrix, each, share)
        part = slice(own.rows.start, own.rows.stop)
        base[part] += self._product(x[part], matrix)
        return True


def ranges_of(deltas: DeltaBatch, num_tokens: int) -> list[Range]:
    """All ranges of rows with adapters, of a batch whose pairs are on the host."""
    shares = np.full((len(deltas.offsets) - 1, num_tokens), ABSENT)
    tokens, coefficients = deltas.tokens.numpy(), deltas.coefficients.numpy()
    for own, (first, past) in zip(shares, pairwise(deltas.offsets), strict=True):
        own[tokens[first:past]] = coefficients[first:past]
    changes = np.flatnonzero((shares[:, 1:] != shares[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), num_tokens] if num_tokens else [0]
    ranges = (Range(range(*own), _present(shares[:, own[0]])) for own in pairwise(bounds))
    return [own for own in ranges if own.shares]


def _present(shares: NDArray[np.float32]) -> tuple[tuple[int, float], ...]:
    return tuple((int(at), float(shares[at])) for at in np.flatnonzero(shares != ABSENT))


def _sparse(operands: Sequence[Operand]) -> list[GpuOperand]:
    mine = (own for own in operands if isinstance(own, GpuOperand))
    return [own for own in mine if own.parts[-1].work in SPARSE]


def _left(deltas: DeltaBatch, taken: Mapping[int, Sequence[range]], num_rows: int) -> list[Segment]:
    """The segments of `deltas`, without the sparse operands in the rows that were `taken`."""
    segments = []
    tokens: Numbers = deltas.tokens.numpy()
    for at, (operands, (first, past)) in enumerate(
        zip(deltas.operands, pairwise(deltas.offsets), strict=True)
    ):
        others = [own for own in operands if own not in _sparse(operands)]
        cuts = _cuts(tokens, first, past, taken.get(at, ()))
        for number, (start, end) in enumerate(cuts):
            slots = layer_slots(others if number % 2 else operands, num_rows)
            segments.append(Segment(slots, start, end))
    return [own for own in segments if own.slots and own.first < own.past]


def _cuts(
    tokens: Numbers, first: int, past: int, taken: Sequence[range]
) -> Iterator[tuple[int, int]]:
    """The pairs from `first` to `past` by turns: of rows that are not `taken`, of rows that are."""
    cuts = [bound for rows in taken for bound in (rows.start, rows.stop)]
    found = np.searchsorted(tokens[first:past], cuts) + first
    bounds = [first, *found.tolist(), past]
    return pairwise(bounds)

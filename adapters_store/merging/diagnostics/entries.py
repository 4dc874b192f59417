"""The entries of any weight delta, a panel of rows at a time: flat keys and values.

A panel is a range of whole rows; panels fill the weight in order, without gaps. Keys count from
the panel's first entry, row-major, ascending and unique. Never widens more than a panel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.adapter import BlockDelta, ElementDelta, LowRankDelta, WeightDelta

Keys = NDArray[np.int64]
Values = NDArray[np.float64]
Panel = tuple[int, int]  # (first row, end)


class Entries(Protocol):
    """One delta, cut at the panels it was made for."""

    def of(self, panel: int) -> tuple[Keys, Values]:
        """Keys within panel number `panel`, and `scale * D` there."""


def entries_of(delta: WeightDelta, panels: Sequence[Panel]) -> Entries:
    """Cuts `delta`, which is no bias, at `panels`; a low-rank or dense one names every place."""
    match delta:
        case ElementDelta():
            return _ElementEntries(delta, panels)
        case BlockDelta():
            return _BlockEntries(delta, panels)
        case _:
            return _FullEntries(delta, panels)


class _ElementEntries:
    def __init__(self, delta: ElementDelta, panels: Sequence[Panel]) -> None:
        self._delta = delta
        self._indices = delta.indices.numpy()
        self._first_keys = [first * delta.shape[1] for first, _ in panels]
        # In the indices' own type: numpy would widen all of them to compare with another.
        starts = np.asarray(self._first_keys, dtype=self._indices.dtype)
        self._cuts = [*np.searchsorted(self._indices, starts), len(self._indices)]

    def of(self, panel: int) -> tuple[Keys, Values]:
        low, high = self._cuts[panel], self._cuts[panel + 1]
        keys = self._indices[low:high].astype(np.int64) - self._first_keys[panel]
        return keys, _widened(self._delta.values[low:high], self._delta.scale)


class _BlockEntries:
    """Tiles as lines, one for each of their rows, in the order of the weight's rows."""

    def __init__(self, delta: BlockDelta, panels: Sequence[Panel]) -> None:
        self._delta, self._panels = delta, panels
        rows = delta.rows().flatten().numpy()  # of every line
        self._lines = np.argsort(rows, kind="stable")  # tiles of a row stay in order
        self._rows = rows[self._lines]
        self._cuts = [*np.searchsorted(self._rows, [p[0] for p in panels]), len(rows)]
        self._columns = delta.columns().numpy()  # [n, Bc]
        self._values = delta.values.flatten(0, 1)  # [n * Br, Bc]

    def of(self, panel: int) -> tuple[Keys, Values]:
        chosen = slice(self._cuts[panel], self._cuts[panel + 1])
        lines = self._lines[chosen]
        rows = self._rows[chosen] - self._panels[panel][0]
        keys = rows[:, None] * self._delta.shape[1] + self._columns[lines // self._delta.block[0]]
        return keys.ravel(), _widened(self._values[torch.from_numpy(lines)], self._delta.scale)


@dataclass(frozen=True, slots=True)
class _FullEntries:
    delta: WeightDelta
    panels: Sequence[Panel]

    def of(self, panel: int) -> tuple[Keys, Values]:
        first, end = self.panels[panel]
        if isinstance(self.delta, LowRankDelta):
            rows: Any = self.delta.b[first:end].double() @ self.delta.a.double()
        else:
            rows = self.delta.tensors["delta"][first:end]
        values = _widened(rows, self.delta.scale)
        return np.arange(len(values)), values


def _widened(values: torch.Tensor, scale: float) -> Values:
    widened: Values = values.double().flatten().numpy()
    return widened * scale

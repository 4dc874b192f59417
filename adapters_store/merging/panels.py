"""What the methods have in common: a plan, and its execution panel by panel.

A *plan* says for every member which entries are kept and what multiplies them, how signs are elected
and what the sum is divided by. Everything a panel needs stays in a core's cache; a place's members
are added in the order given. Knows no method's name.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import add, divide
from adapters_store.merging.sources import Runs, Source
from adapters_store.merging.space import Panel, Space

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

# The entries of a member (by its position) that are kept, in the same places.
Trim = Callable[[Panel, int, Runs], Runs]


@dataclass(frozen=True, slots=True)
class Members:
    """The members that change a layer, in order, in one space. `total` counts absent ones too."""

    space: Space
    sources: Sequence[Source]
    weights: Sequence[float]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to merge: `gain * (sum of weights * kept entries) / divisor`.

    The divisor is a number, or "masks": how many kept masks hold the place.
    """

    weights: Sequence[float]
    divisor: float | Literal["masks"] = 1.0
    gain: float = 1.0
    trim: Trim | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """A panel of the result: fp64 values, and how many masks hold each place."""

    panel: Panel
    values: Floats
    held: Counts


def run_plan(plan: Plan, members: Members) -> Iterator[Merged]:
    """The merged panels in order; each is overwritten by the next."""
    panels = members.space.panels
    most = max(panel.size for panel in panels)
    values, held = np.empty(most), np.empty(most, np.int32)
    for panel in panels:
        merged = Merged(panel, values[: panel.size], held[: panel.size])
        merged.values[:] = 0
        merged.held[:] = 0
        _combine(plan, members, merged)
        yield merged


def _combine(plan: Plan, members: Members, merged: Merged) -> None:
    for index, source in enumerate(members.sources):
        runs = source.runs(merged.panel)
        if plan.trim:
            runs = plan.trim(merged.panel, index, runs)
        compiled(add)(merged.values, merged.held, merged.panel.first, *runs, plan.weights[index])
    if plan.divisor == "masks":
        compiled(divide)(merged.values, merged.held)
    elif plan.divisor != 1:
        np.divide(merged.values, plan.divisor, out=merged.values)
    if plan.gain != 1:
        np.multiply(merged.values, plan.gain, out=merged.values)

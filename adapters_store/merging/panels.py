"""What the methods have in common: a plan, and its execution panel by panel.

A *plan* says which of the members' entries are kept, what multiplies them, how signs are elected
and what the sum is divided by. Everything that a panel needs stays in a core's cache; the members
of a place are added in the order given. Knows no method's name.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import InvalidMerge
from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import (
    add,
    add_agreeing,
    add_share,
    count_beyond,
    divide,
    vote_count,
    vote_sum,
)
from adapters_store.merging.sources import Runs, Source
from adapters_store.merging.space import Panel, Space
from adapters_store.merging.trims import Trim

LARGEST_FP32 = float(np.finfo(np.float32).max)
Floats = NDArray[np.float64]
Counts = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Members:
    """The members that change a layer, in order, in one space.

    `positions` tells which of all `total` members they are: the others leave the layer alone.
    """

    space: Space
    sources: Sequence[Source]
    weights: Sequence[float]
    digests: Sequence[str]
    positions: Sequence[int]
    total: int

    def runs(self, panel: Panel) -> list[Runs]:
        """The members' entries in a panel."""
        return [source.runs(panel) for source in self.sources]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to merge: `gain * (sum of weights * entries) / divisor`, over the kept entries.

    `divisor` is a number, or "masks": how many members keep the place, or "shares": the sum of
    the `shares` of the members added there. With `elect`, only entries are added whose sign is
    that of the sum of `votes * entries`, or of the sum of their signs. A divisor of 0 is 1.
    """

    weights: Sequence[float]
    divisor: float | Literal["masks", "shares"] = 1.0
    shares: Sequence[float] = ()
    elect: Literal["sum", "count"] | None = None
    votes: Sequence[float] = ()
    trim: Trim | None = None
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class Merged:
    """A panel of the result: fp64 values, and by how many masks each place is held."""

    panel: Panel
    values: Floats
    held: Counts


def kept_runs(plan: Plan, members: Members, panel: Panel) -> Sequence[Runs]:
    """The entries of a panel that `plan` keeps, by member."""
    runs = members.runs(panel)
    return plan.trim(panel, runs) if plan.trim else runs


def run_plan(plan: Plan, members: Members) -> Iterator[Merged]:
    """The merged panels in order; each is overwritten by the next.

    Raises InvalidMerge for a value that is no fp32 number.
    """
    panels = members.space.panels
    most = max(panel.size for panel in panels)
    values, held = np.empty(most), np.empty(most, np.uint16)
    for panel in panels:
        merged = Merged(panel, values[: panel.size], held[: panel.size])
        merged.values.fill(0)
        merged.held.fill(0)
        _combine(plan, kept_runs(plan, members, panel), merged)
        if compiled(count_beyond)(merged.values, LARGEST_FP32):
            raise InvalidMerge("members", list(plan.weights), "merged values overflow fp32")
        yield merged


def _combine(plan: Plan, runs: Sequence[Runs], merged: Merged) -> None:
    """Sum, divide and scale one panel."""
    values = merged.values
    shares = (_add_elected if plan.elect else _add_all)(plan, runs, merged)
    if plan.divisor == "masks":
        compiled(divide)(values, merged.held)
    elif plan.divisor == "shares":
        compiled(divide)(values, shares)
    elif plan.divisor != 1:
        np.divide(values, plan.divisor, out=values)
    if plan.gain != 1:
        np.multiply(values, plan.gain, out=values)


def _add_all(plan: Plan, runs: Sequence[Runs], merged: Merged) -> Floats:
    """Every entry; the sum of shares, if there are any."""
    first = merged.panel.first
    for weight, member in zip(plan.weights, runs, strict=True):
        compiled(add)(merged.values, merged.held, first, *member, weight)
    shares = np.zeros(merged.panel.size if plan.shares else 0)
    for share, (starts, values) in zip(plan.shares, runs, strict=False):
        compiled(add_share)(shares, first, starts, values.shape[1], share)
    return shares


def _add_elected(plan: Plan, runs: Sequence[Runs], merged: Merged) -> Floats:
    """The entries that agree with the elected sign; the sum of their shares."""
    first = merged.panel.first
    votes, shares = np.zeros(merged.panel.size), np.zeros(merged.panel.size)
    vote = compiled(vote_sum if plan.elect == "sum" else vote_count)
    for weight, member in zip(plan.votes, runs, strict=True):
        vote(votes, first, *member, weight)
    sums = merged.values, merged.held, shares, votes, first
    for weight, share, member in zip(plan.weights, plan.shares, runs, strict=True):
        compiled(add_agreeing)(*sums, *member, weight, share)
    return shares


def count_held(plan: Plan, members: Members, panels: Iterable[Panel]) -> Iterator[Counts]:
    """For each of `panels`, by how many kept masks its places are held."""
    for panel in panels:
        held = np.zeros(panel.size, np.uint16)
        scratch = Merged(panel, np.zeros(panel.size), held)
        _add_all(plan, kept_runs(plan, members, panel), scratch)
        yield held

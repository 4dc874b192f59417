"""Counts one panel of rows: everything that needs the members' entries side by side.

One pass: entries are put in order of their places, then each place is looked at once, with every
pair of the members that meet there. The loops themselves are in `loops.py`.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from adapters_store.merging.compiled import compiled
from adapters_store.merging.diagnostics.counts import Counts
from adapters_store.merging.diagnostics.entries import Keys, Values
from adapters_store.merging.diagnostics.loops import (
    DOTS,
    INSIDE,
    KEPT,
    MASS,
    MOVED,
    OPPOSED,
    OWN,
    SHARED,
    SQUARES,
    count_places,
)

Number = TypeVar("Number", np.int64, np.float64)


def count_panel(
    num_places: int, members: Sequence[tuple[Keys, Values] | None], weights: Sequence[float]
) -> Counts:
    """Counts of one panel; None is a member without a delta here. `expected` is left at 0."""
    lengths = [0 if entries is None else len(entries[0]) for entries in members]
    present = [entries for entries in members if entries is not None]
    held, single, counts, sums, merged, conflicted = compiled(count_places)(
        num_places,
        np.cumsum([0, *lengths]),
        np.concatenate([keys for keys, _ in present]),
        np.concatenate([values for _, values in present]),
        np.asarray(weights, np.float64),
    )
    return Counts(
        places=num_places,
        held=held,
        conflicted=int(conflicted),
        shared=_mirrored(counts[SHARED]),
        expected=np.zeros((len(members), len(members))),
        opposed=_mirrored(counts[OPPOSED]),
        dots=_mirrored(sums[DOTS]),
        squares=sums[SQUARES],
        merged=float(merged),
        merged_inside=single[INSIDE],
        own=single[OWN],
        moved=single[MOVED],
        mass=single[MASS],
        kept=single[KEPT],
    )


def _mirrored(lower: NDArray[Number]) -> NDArray[Number]:
    """The symmetric matrix whose lower triangle is given, over zeros."""
    return lower + np.tril(lower, -1).T

"""What some methods must know of a whole layer before its first place can be merged.

Every function passes over the members' panels, keeps a few numbers, and no more than a panel.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import add, add_deviations, dot
from adapters_store.merging.panels import Members
from adapters_store.merging.selection import NOTHING, Entries, largest
from adapters_store.merging.sources import Runs
from adapters_store.merging.space import Panel
from adapters_store.merging.trims import Band, Trim, keep_bands, keep_places, magnitudes


class Angle(NamedTuple):
    """Norms of the two weighted members, and the cosine between them (0 beside a norm of 0)."""

    norms: tuple[float, float]
    cosine: float


def angle(members: Members) -> Angle:
    """Between members 0 and 1 of two; one that leaves the layer alone has norm 0."""
    products = np.zeros((2, 2))
    for panel in members.space.panels:
        sides = [np.zeros(panel.size), np.zeros(panel.size)]
        for position, runs, weight in zip(
            members.positions, members.runs(panel), members.weights, strict=True
        ):
            held = np.zeros(panel.size, np.uint16)
            compiled(add)(sides[position], held, panel.first, *runs, weight)
        products += [[compiled(dot)(x, y) for y in sides] for x in sides]
    first, second = math.sqrt(products[0, 0]), math.sqrt(products[1, 1])
    cosine = products[0, 1] / (first * second) if first and second else 0.0
    return Angle((first, second), min(1.0, max(-1.0, float(cosine))))


def rescales(members: Members, trim: Trim) -> list[float]:
    """By member: l1 norm of its entries over that of those kept; 1 where either is below 1e-7."""
    before, after = np.zeros(len(members.sources)), np.zeros(len(members.sources))
    for panel in members.space.panels:
        runs = members.runs(panel)
        before += [magnitudes(member)[0] for member in runs]
        after += [magnitudes(member)[0] for member in trim(panel, runs)]
    return [b / a if min(a, b) >= 1e-7 else 1.0 for b, a in zip(before, after, strict=True)]


def energies(members: Members, trim: Trim | None) -> list[float]:
    """By member: the sum of the squares of its weighted kept entries."""
    squares = np.zeros(len(members.sources))
    for panel in members.space.panels:
        runs = members.runs(panel)
        kept = trim(panel, runs) if trim else runs
        squares += [magnitudes(member)[1] for member in kept]
    weights = np.array(members.weights)
    return [float(energy) for energy in weights * weights * squares]


def keep_varied(members: Members, share: float, layer: str) -> Trim:
    """SCE's selection: of the places where members differ, the `share` of largest variance."""

    def read() -> Iterator[Entries]:
        for panel in members.space.panels:
            yield Entries(layer, members.space, variances(members, panel, members.runs(panel)))

    nonzero = sum(int(np.count_nonzero(entries.runs.values)) for entries in read())
    selection = Band(largest(read, int(nonzero * share)), NOTHING)
    keep = keep_bands(members.space, layer, [selection])

    def select(panel: Panel, runs: Sequence[Runs]) -> NDArray[np.bool_]:
        (kept,) = keep(panel, [variances(members, panel, runs)])
        selected = np.zeros(panel.size, np.bool_)
        selected[kept.starts - panel.first] = True
        return selected

    return keep_places(select)


def variances(members: Members, panel: Panel, runs: Sequence[Runs]) -> Runs:
    """By place, of the weighted values of all members: 0 where a member's mask leaves it out."""
    total, held = np.zeros(panel.size), np.zeros(panel.size, np.uint16)
    for member, weight in zip(runs, members.weights, strict=True):
        compiled(add)(total, held, panel.first, *member, weight)
    mean = total / members.total
    deviation = (members.total - held) * (mean * mean)
    for member, weight in zip(runs, members.weights, strict=True):
        compiled(add_deviations)(deviation, mean, panel.first, *member, weight)
    starts = np.array([panel.first], members.space.index_dtype)
    return Runs(starts, (deviation / members.total).astype(np.float32)[None])

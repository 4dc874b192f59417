"""Which entries of the members are kept, panel by panel: the trims of `panels.Plan`.

A trim takes the runs of all members in a panel and gives single entries, in the same order of
places. It depends on the members' entries alone, never on the space in which they are visited.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters_store.canonical import sha256_of
from adapters_store.merging.choosing import (
    keep_band,
    keep_drawn,
    keep_probable,
    keep_selected,
)
from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import sum_powers
from adapters_store.merging.selection import Cut
from adapters_store.merging.sources import Runs
from adapters_store.merging.space import Panel, Space

Trim = Callable[[Panel, Sequence[Runs]], Sequence[Runs]]
DRAWS = 2**53
MAGNITUDE_LENGTH = 31  # bits of an fp32 magnitude, which compare as the magnitudes do


class Band(NamedTuple):
    """The entries of the set `low` that are not of the set `high`, smaller than `low`."""

    low: Cut
    high: Cut


def keep_bands(space: Space, layer: str, bands: Sequence[Band]) -> Trim:
    """Of every member the entries of its band."""
    geometry = space.geometry
    cuts = [(band.low.within(layer), band.high.within(layer)) for band in bands]

    def trim(panel: Panel, runs: Sequence[Runs]) -> Sequence[Runs]:
        return [
            _kept(keep_band, member, geometry, *cut) for member, cut in zip(runs, cuts, strict=True)
        ]

    return trim


def draw_key(seed: int, digest: str, layer: str) -> np.uint64:
    """The key of the draws for an adapter's layer."""
    words = sha256_of({"draws": 1, "seed": seed, "adapter": digest, "layer": layer})
    return np.uint64(int(words.removeprefix("sha256:")[:16], 16))


def keep_draws(space: Space, keys: Sequence[np.uint64], density: float) -> Trim:
    """Of every member each entry with probability `density`."""
    geometry, bound = space.geometry, np.uint64(int(density * DRAWS))

    def trim(panel: Panel, runs: Sequence[Runs]) -> Sequence[Runs]:
        return [
            _kept(keep_drawn, member, geometry, key, bound)
            for member, key in zip(runs, keys, strict=True)
        ]

    return trim


def keep_ranked(space: Space, keys: Sequence[np.uint64], density: float, epsilon: float) -> Trim:
    """DELLA's draws: within a row of the weight, the larger an entry the likelier it is kept.

    Probabilities rise from density - epsilon to density + epsilon in equal steps; an entry alone
    in its row has `density`. `space` is row-major.
    """

    def trim(panel: Panel, runs: Sequence[Runs]) -> Sequence[Runs]:
        return [_ranked(panel, member, key) for member, key in zip(runs, keys, strict=True)]

    def _ranked(panel: Panel, member: Runs, key: np.uint64) -> Runs:
        single = singles(member)
        shares = _rank_shares(single.starts - panel.first, single.values[:, 0], space.width)
        probabilities = (density - epsilon) + shares * 2 * epsilon
        return _kept(keep_probable, single, probabilities, key)

    return trim


def keep_places(select: Callable[[Panel, Sequence[Runs]], NDArray[np.bool_]]) -> Trim:
    """Of every member the entries at the places of the panel that `select` names."""

    def trim(panel: Panel, runs: Sequence[Runs]) -> Sequence[Runs]:
        selected = select(panel, runs)
        return [_kept(keep_selected, member, selected, panel.first) for member in runs]

    return trim


def singles(runs: Runs) -> Runs:
    """The same entries as runs of one."""
    length = runs.values.shape[1]
    if length == 1:
        return runs
    offsets = np.arange(length, dtype=runs.starts.dtype)
    return Runs((runs.starts[:, None] + offsets).reshape(-1), runs.values.reshape(-1, 1))


def magnitudes(runs: Runs) -> tuple[float, float]:
    """Sums of the absolute values and of their squares."""
    absolute, squared = compiled(sum_powers)(runs.values)
    return absolute, squared


def _rank_shares(places: NDArray[Any], values: NDArray[Any], width: int) -> NDArray[np.float64]:
    """By entry: its rank by magnitude in its row, 0 the smallest, 1 the largest; 1/2 alone.

    Equal magnitudes rank by column. One sort of integers: row, bits of the magnitude, column.
    """
    rows, columns = np.divmod(places.astype(np.int64), width)
    column_bits = width.bit_length()
    magnitude = np.abs(values).view(np.int32).astype(np.int64)
    keys = (((rows << MAGNITUDE_LENGTH) | magnitude) << column_bits) | columns
    keys.sort()
    sorted_rows = keys >> (MAGNITUDE_LENGTH + column_bits)
    in_row = np.bincount(sorted_rows)
    first = in_row.cumsum() - in_row
    ranks = np.arange(len(keys)) - first[sorted_rows]
    spans = in_row[sorted_rows] - 1
    shares: NDArray[np.float64] = np.empty(width * len(in_row))
    at = sorted_rows * width + (keys & ((1 << column_bits) - 1))
    shares[at] = np.where(spans > 0, ranks / np.maximum(spans, 1), 0.5)
    return np.asarray(shares[places])


def _kept(loop: Callable[..., Any], runs: Runs, *how: Any) -> Runs:
    """The entries that `loop` keeps, as runs of one."""
    places, kept = (
        np.empty(runs.values.size, runs.starts.dtype),
        np.empty(runs.values.size, np.float32),
    )
    count = compiled(loop)(runs.starts, runs.values, *how, places, kept)
    return Runs(places[:count], kept[:count, None])

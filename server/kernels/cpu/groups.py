"""The tokens of one adapter in groups of up to `LANES`, for the products with its delta.

Tokens of a small group are multiplied one by one. Those of a larger one are multiplied side by
side, in the lanes of a vector, for which their activations are transposed first.
"""

from typing import Any, NamedTuple

import numpy as np

from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.threads import run_tasks
from server.kernels.cpu.vectors import LANES, copy, turn

FEW = 5  # tokens of a small group
ALONE = -1  # where the transposed activations of a small group are not


class Pairs(NamedTuple):
    """A `DeltaBatch` for compiled loops."""

    x: Any  # [T, in]
    y: Any  # [T, out]
    offsets: Any  # [num_segments + 1]
    tokens: Any  # [num_pairs]
    coefficients: Any  # [num_pairs]


class Groups(NamedTuple):
    """Every segment's pairs, cut up."""

    spans: Any  # [num_groups, 3]: first pair, past pair, place among the transposed or ALONE
    offsets: Any  # [num_segments + 1], groups of each segment
    transposed: Any  # [num_transposed, in * LANES]


@compiled
def make_groups(pairs: Any, threads: int) -> Any:
    """The groups of all pairs, their activations transposed where they are to be."""
    spans = np.empty((_count(pairs.offsets), 3), np.int64)
    offsets = np.empty(len(pairs.offsets), np.int64)
    at, places = 0, 0
    for segment in range(len(offsets) - 1):
        offsets[segment] = at
        for first in range(pairs.offsets[segment], pairs.offsets[segment + 1], LANES):
            past = min(first + LANES, pairs.offsets[segment + 1])
            spans[at, 0], spans[at, 1], spans[at, 2] = first, past, ALONE
            if past - first > FEW:
                spans[at, 2] = places
                places += 1
            at += 1
    offsets[-1] = at
    transposed = np.empty((places, pairs.x.shape[1] * LANES), np.float32)
    groups = Groups(spans, offsets, transposed)
    if places:
        run_tasks(_transpose, at, threads, (groups, pairs))
    return groups


@compiled
def _count(offsets: Any) -> int:
    total = 0
    for segment in range(len(offsets) - 1):
        total += (offsets[segment + 1] - offsets[segment] + LANES - 1) // LANES
    return total


@compiled
def _transpose(task: int, groups: Any, pairs: Any) -> None:
    first, past, place = groups.spans[task]
    if place == ALONE:
        return
    x, width, made = pairs.x.reshape(-1), pairs.x.shape[1], groups.transposed[place]
    square = np.zeros(LANES * LANES, np.float32)
    whole = width // LANES * LANES
    for column in range(0, whole, LANES):
        for pair in range(first, past):
            copy(square, (pair - first) * LANES, x, pairs.tokens[pair] * width + column, LANES)
        turn(square, 0, made, column * LANES, LANES)
    made[whole * LANES :] = 0
    for pair in range(first, past):
        for column in range(whole, width):
            made[column * LANES + pair - first] = pairs.x[pairs.tokens[pair], column]

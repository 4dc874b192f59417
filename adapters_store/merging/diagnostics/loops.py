"""The loops over a panel's places: plain Python that `compiled.py` turns into machine code."""

from typing import Any

import numpy as np

from adapters_store.merging.compiled import inlined

Array = Any  # NumPy arrays; Numba compiles for their dtypes

OWN, MOVED, MASS, KEPT, INSIDE = range(5)  # rows of a panel's sums of single members
SHARED, OPPOSED = range(2)  # of its counts of pairs
DOTS, SQUARES = range(2)  # and of its sums of pairs


@inlined
def _by_place(
    num_places: int, starts: Array, keys: Array, values: Array
) -> tuple[Array, Array, Array]:
    """(first entry of each place, entries' members, entries' values), by place, then member."""
    firsts = np.zeros(num_places + 2, np.int32)
    for key in keys:
        firsts[key + 2] += 1
    for place in range(num_places + 1):
        firsts[place + 1] += firsts[place]
    owners, ordered = np.empty(len(keys), np.int16), np.empty(len(keys))
    for member in range(len(starts) - 1):
        for entry in range(starts[member], starts[member + 1]):
            position = firsts[keys[entry] + 1]
            firsts[keys[entry] + 1] += 1
            owners[position], ordered[position] = member, values[entry]
    return firsts, owners, ordered


@inlined
def _meet(
    first: int,
    end: int,
    owners: Array,
    values: Array,
    weights: Array,
    counts: Array,
    sums: Array,
) -> bool:
    """Add what every pair of one place's entries is to each other; whether any are opposed."""
    has_conflict = False
    for entry in range(first, end):
        i = owners[entry]
        mine = weights[i] * values[entry]
        counts[SHARED, i, i] += 1
        sums[DOTS, i, i] += mine * mine
        sums[SQUARES, i, i] += mine * mine
        for other in range(first, entry):
            j = owners[other]
            theirs = weights[j] * values[other]
            is_opposed = (mine > 0 and theirs < 0) or (mine < 0 and theirs > 0)
            has_conflict |= is_opposed
            counts[SHARED, i, j] += 1
            counts[OPPOSED, i, j] += is_opposed
            sums[DOTS, i, j] += mine * theirs
            sums[SQUARES, i, j] += mine * mine
            sums[SQUARES, j, i] += theirs * theirs
    return has_conflict


def count_places(
    num_places: int, starts: Array, keys: Array, values: Array, weights: Array
) -> tuple[Array, Array, Array, Array, float, int]:
    """(held, of members, counts of pairs, sums of pairs, merged, conflicted); see `Counts`.

    Member i has `keys[starts[i]:starts[i + 1]]`, none twice. Of pairs (i, j) with i > j the counts
    and dots are left for the caller to mirror.
    """
    firsts, owners, ordered = _by_place(num_places, starts, keys, values)
    num_members = len(weights)
    held = np.zeros(num_members + 1, np.int64)
    single = np.zeros((5, num_members))
    counts = np.zeros((2, num_members, num_members), np.int64)
    sums = np.zeros((2, num_members, num_members))
    merged, conflicted = 0.0, 0
    for place in range(num_places):
        first, end = firsts[place], firsts[place + 1]
        held[end - first] += 1
        if first == end:
            continue
        mean = 0.0
        for entry in range(first, end):
            mean += weights[owners[entry]] * ordered[entry]
        mean /= end - first
        merged += mean * mean
        for entry in range(first, end):
            i, value = owners[entry], ordered[entry]
            single[OWN, i] += value * value
            single[MOVED, i] += (mean - value) ** 2
            single[MASS, i] += abs(value)
            single[KEPT, i] += abs(weights[i] * value) / (end - first)
            single[INSIDE, i] += mean * mean
        conflicted += _meet(first, end, owners, ordered, weights, counts, sums)
    return held, single, counts, sums, merged, conflicted

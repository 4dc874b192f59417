"""Bounds on a diagnosis, beyond which a merge is warned of or refused.

A bound is held against the pooled numbers, so that a small layer decides nothing alone; of what is
measured for each member or pair, against the worst. A number that is not defined breaks no bound.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters_store.merging.diagnose import Diagnosis
from adapters_store.merging.diagnostics.counts import Floats

Members = tuple[int, ...]  # positions: of a pair, of one member, or none for the whole merge


@dataclass(frozen=True, slots=True)
class Measure:
    """What can be bounded: numbers of the whole merge, of members `[N]` or of pairs `[N, N]`."""

    of: Callable[[Diagnosis], Any]
    is_too_low: bool = False  # broken by numbers below the bound, not above


def _pooled(name: str) -> Callable[[Diagnosis], Any]:
    return lambda diagnosis: getattr(diagnosis.pooled, name)


MEASURES: Mapping[str, Measure] = {
    "coverage": Measure(_pooled("coverage")),
    "mean_overlap": Measure(_pooled("mean_overlap")),
    "sign_conflict": Measure(_pooled("sign_conflict")),
    "bytes": Measure(lambda diagnosis: diagnosis.num_bytes),
    "jaccard": Measure(_pooled("jaccard")),
    "overlap": Measure(_pooled("overlap")),
    "lift": Measure(_pooled("lift")),
    "cosine": Measure(_pooled("cosine"), is_too_low=True),
    "outside_energy": Measure(_pooled("outside_energy")),
    "distortion": Measure(_pooled("distortion")),
    "kept_mass": Measure(_pooled("kept_mass"), is_too_low=True),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A bound that is broken: `level` is warn or refuse, `members` the worst one or pair."""

    level: str
    measure: str
    value: float
    bound: float
    members: Members


def findings(
    diagnosis: Diagnosis, warn_if: Mapping[str, float], refuse_if: Mapping[str, float]
) -> tuple[Finding, ...]:
    """Every broken bound, refusals first; the names are keys of MEASURES."""
    return (
        *_broken(diagnosis, "refuse", refuse_if),
        *_broken(diagnosis, "warn", warn_if),
    )


def verdict(found: tuple[Finding, ...]) -> str:
    """`refuse`, `warn` or `ok`: the worst level found."""
    levels = {finding.level for finding in found}
    return next((level for level in ("refuse", "warn") if level in levels), "ok")


def _broken(diagnosis: Diagnosis, level: str, bounds: Mapping[str, float]) -> Iterator[Finding]:
    for name, bound in bounds.items():
        measure = MEASURES[name]
        sign = -1.0 if measure.is_too_low else 1.0
        members, badness = _worst(sign * np.asarray(measure.of(diagnosis), np.float64))
        if badness > sign * bound:
            yield Finding(level, name, sign * badness, bound, members)


def _worst(numbers: Floats) -> tuple[Members, float]:
    """The largest number and where it is; of pairs, two members that differ. -inf for none."""
    if numbers.ndim == 2:
        numbers = np.where(np.tri(len(numbers), dtype=bool), -np.inf, numbers)
    numbers = np.nan_to_num(numbers, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    place = np.unravel_index(np.argmax(numbers), numbers.shape)
    return tuple(int(i) for i in place), float(numbers[place])

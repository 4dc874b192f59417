"""The arithmetic of the methods: from a method's parameters to a plan of `panels.py`.

`PLANS` has the names of `table.METHODS`. Symbols as there: v a member's value, w its weight, N the
number of members.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters_store.adapter import WeightDelta
from adapters_store.merging.bands import layer_band
from adapters_store.merging.panels import Members, Plan
from adapters_store.merging.passes import angle, energies, keep_varied, rescales
from adapters_store.merging.trims import Band, Trim, draw_key, keep_bands, keep_draws, keep_ranked

COLLINEAR = 0.9995  # cosines beyond this are interpolated linearly, as in mergekit


@dataclass(frozen=True, slots=True)
class Job:
    """One layer's merge: its members with their deltas, and what the recipe says."""

    members: Members
    deltas: Sequence[WeightDelta]  # of `members`
    parameters: Mapping[str, Any]
    layer: str
    seed: int
    bands: Mapping[str, Band]  # by adapter digest, where magnitudes are ranked over the adapter


def overlap_average(job: Job) -> Plan:
    return Plan(weights=job.members.weights, divisor="masks")


def average(job: Job) -> Plan:
    return Plan(weights=job.members.weights, divisor=float(job.members.total))


def linear(job: Job) -> Plan:
    return Plan(weights=job.members.weights)


def task_arithmetic(job: Job) -> Plan:
    return _sum(job, None)


def magnitude_prune(job: Job) -> Plan:
    return Plan(weights=job.members.weights, trim=_trim(job))


def breadcrumbs(job: Job) -> Plan:
    return _sum(job, _trim(job))


def ties(job: Job) -> Plan:
    return _elected(job, _trim(job))


def dare_linear(job: Job) -> Plan:
    return _sum(job, _draws(job), rescale=1 / job.parameters["density"])


def dare_ties(job: Job) -> Plan:
    return _elected(job, _draws(job), rescale=1 / job.parameters["density"])


def della(job: Job) -> Plan:
    """Ranked draws, the l1 norm of every member restored, then as TIES."""
    density, members = job.parameters["density"], job.members
    if density == 1:
        return _elected(job, None)
    trim = keep_ranked(members.space, _keys(job), density, job.parameters["epsilon"])
    return _elected(job, trim, rescales(members, trim))


def metrics_weighted(job: Job) -> Plan:
    """w v weighted by shares of steps ** p, or of loss ** -p; over the shares of the masks."""
    sign = 1.0 if job.parameters["metric"] == "steps" else -1.0
    logs = [sign * job.parameters["penalty"] * math.log(x) for x in job.parameters["values"]]
    largest = max(logs)
    powers = [math.exp(log - largest) for log in logs]
    shares = [powers[position] / math.fsum(powers) for position in job.members.positions]
    return Plan(weights=_times(job.members.weights, shares), divisor="shares", shares=shares)


def slerp(job: Job) -> Plan:
    """Along the arc between the two w v; along the line where there is no arc."""
    t, between = job.parameters["t"], angle(job.members)
    factors = [1 - t, t]
    if min(between.norms) > 0 and abs(between.cosine) <= COLLINEAR:
        theta = math.acos(between.cosine)
        factors = [math.sin(factor * theta) / math.sin(theta) for factor in factors]
    present = [factors[position] for position in job.members.positions]
    return Plan(weights=_times(job.members.weights, present))


def sce(job: Job) -> Plan:
    """Select by variance, weigh members by energy, erase minority signs."""
    members, share = job.members, job.parameters["select_topk"]
    trim = keep_varied(members, share, job.layer) if share < 1 else None
    squares = energies(members, trim)
    total = math.fsum(squares)
    shares = [square / total if total else 1.0 for square in squares]
    return Plan(
        weights=_times(members.weights, shares),
        divisor="shares",
        shares=shares,
        elect="sum",
        votes=members.weights,
        trim=trim,
    )


def _sum(job: Job, trim: Trim | None, rescale: float = 1.0) -> Plan:
    gain = job.parameters["lambda"] * rescale
    return Plan(weights=job.members.weights, trim=trim, gain=gain)


def _elected(job: Job, trim: Trim | None, rescale: float | Sequence[float] = 1.0) -> Plan:
    """Steps 2 and 3 of TIES: elect signs, then add what agrees and divide."""
    weights, parameters = job.members.weights, job.parameters
    factors = [rescale] * len(weights) if isinstance(rescale, float) else rescale
    terms = _times(weights, factors)
    shares = {"count": [1.0] * len(weights), "weights": weights}.get(parameters["divisor"])
    return Plan(
        weights=terms,
        votes=terms,
        elect=parameters["sign"],
        shares=shares or [0.0] * len(weights),
        divisor="shares" if shares else 1.0,
        trim=trim,
        gain=parameters["lambda"],
    )


def _trim(job: Job) -> Trim:
    """Trim by magnitude, in this layer or as the whole adapter's ranking says."""
    if job.parameters["scope"] == "adapter":
        bands = [job.bands[digest] for digest in job.members.digests]
    else:
        bands = [layer_band(delta, job.parameters) for delta in job.deltas]
    return keep_bands(job.members.space, job.layer, bands)


def _keys(job: Job) -> list[Any]:
    return [draw_key(job.seed, digest, job.layer) for digest in job.members.digests]


def _draws(job: Job) -> Trim:
    return keep_draws(job.members.space, _keys(job), job.parameters["density"])


def _times(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a * b for a, b in zip(left, right, strict=True)]


PLANS: Mapping[str, Callable[[Job], Plan]] = {
    "overlap_average": overlap_average,
    "average": average,
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "magnitude_prune": magnitude_prune,
    "metrics_weighted": metrics_weighted,
    "slerp": slerp,
    "sce": sce,
}
RANKED_IN_ROWS = frozenset({"della"})  # need a row's entries together, so row-major order

"""The merge methods, one row each: what they do, what they may be told, what they promise.

Owns names, parameters and promises; `rules.py` holds the arithmetic under the same names.
`docs/merging.md` shows this table, and a test compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adapters_store.errors import InvalidMerge
from adapters_store.merging.parameters import (
    Choice,
    MemberNumbers,
    Number,
    Parameter,
    Value,
)

DEFAULT_METHOD = "overlap_average"
MAX_MEMBERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to merge. Symbols: v a member's value, w its weight, N members."""

    name: str
    summary: str
    paper: str
    parameters: tuple[Parameter, ...] = ()
    min_members: int = 1
    max_members: int = MAX_MEMBERS
    folds: bool = False  # one adapter named twice is the same as once with the weights added
    sorts: bool = True  # the order of members means nothing, so they are taken by digest
    takes_seed: bool = False
    # "bits": the same bytes on every machine; else the tolerance, relative to the largest value.
    exactness: Literal["bits"] | float = "bits"


_LAMBDA = Number("lambda", 1.0, "multiplies the merged delta")
_TRIM = (
    Choice(
        "density_of",
        "nnz",
        "what density is a share of: the entries a member names, or all places",
        ("nnz", "numel"),
    ),
    Choice(
        "scope",
        "layer",
        "where a member's magnitudes are ranked: in each layer, or over the adapter",
        ("layer", "adapter"),
    ),
)
_ELECT = (
    Choice(
        "sign", "sum", "elected: the sign of the sum of x, or of the sum of signs", ("sum", "count")
    ),
    Choice(
        "divisor",
        "count",
        "of the sum of agreeing x: their number, the sum of their w, or none",
        ("count", "weights", "none"),
    ),
    _LAMBDA,
)
_GAMMA = Number("gamma", 0.01, "share of the entries dropped for being the largest", low=0, high=1)
_KEPT = "share of a member's entries that is kept"
_PRUNED = f"{_KEPT}, the largest"
_VARIED = "share kept of the places where members differ; 1 keeps all places"
_DRAWN = "probability that an entry is kept"


def _density(default: float, meaning: str) -> Number:
    return Number("density", default, meaning, low=0, high=1, above_low=True)


_ROWS = (
    Method(
        name="overlap_average",
        summary="sum of w v over the number of masks that hold the place",
        paper="arXiv 2507.07140, eq. 4",
    ),
    Method(name="average", summary="sum of w v over N", paper="arXiv 2203.05482"),
    Method(
        name="linear",
        summary="sum of w v; negative weights negate",
        paper="arXiv 2306.14870",
        folds=True,
    ),
    Method(
        name="task_arithmetic",
        summary="lambda times the sum of w v",
        paper="arXiv 2212.04089",
        parameters=(_LAMBDA,),
        folds=True,
    ),
    Method(
        name="ties",
        summary="trim to the largest, x = w v, elect a sign, lambda times the mean of agreeing x",
        paper="arXiv 2306.01708",
        parameters=(_density(0.2, _PRUNED), *_TRIM, *_ELECT),
    ),
    Method(
        name="breadcrumbs",
        summary="drop the largest and the smallest, lambda times the sum of w v",
        paper="arXiv 2312.06795",
        parameters=(
            _density(0.9, _KEPT),
            _GAMMA,
            *_TRIM,
            _LAMBDA,
        ),
        folds=True,
    ),
    Method(
        name="breadcrumbs_ties",
        summary="drop the largest and the smallest, then elect and add as ties",
        paper="arXiv 2312.06795, 2306.01708",
        parameters=(
            _density(0.9, _KEPT),
            _GAMMA,
            *_TRIM,
            *_ELECT,
        ),
    ),
    Method(
        name="dare_linear",
        summary="drop at random, lambda times the sum of w v, over density",
        paper="arXiv 2311.03099",
        parameters=(_density(0.5, _DRAWN), _LAMBDA),
        folds=True,
        takes_seed=True,
    ),
    Method(
        name="dare_ties",
        summary="drop at random, v over density, then elect and add as ties",
        paper="arXiv 2311.03099, 2306.01708",
        parameters=(_density(0.5, _DRAWN), *_ELECT),
        takes_seed=True,
    ),
    Method(
        name="della",
        summary="drop at random, the larger in its row the less likely; restore l1; then as ties",
        paper="arXiv 2406.11617",
        parameters=(
            _density(0.5, "mean probability that an entry is kept"),
            Number(
                "epsilon", 0.15, "probabilities are density -/+ epsilon, by rank", low=0, high=1
            ),
            *_ELECT,
        ),
        takes_seed=True,
    ),
    Method(
        name="magnitude_prune",
        summary="trim to the largest, then the sum of w v",
        paper="PEFT's magnitude_prune",
        parameters=(_density(0.5, _PRUNED), *_TRIM),
        folds=True,
    ),
    Method(
        name="metrics_weighted",
        summary="checkpoints of one run: sum of c w v over sum of c of masks that hold the place",
        paper="arXiv 2504.18580 in our reading: its formula is not public",
        parameters=(
            Choice(
                "metric", "loss", "c is steps ** penalty, or loss ** -penalty", ("loss", "steps")
            ),
            MemberNumbers("values", "the members' steps or losses, in their order"),
            Number("penalty", 1.0, "0 weighs all alike", low=0, high=1000),
        ),
        sorts=False,
        exactness=1e-6,
    ),
    Method(
        name="slerp",
        summary="from w v of the first to that of the second along the arc between them, per layer",
        paper="Shoemake 1985",
        parameters=(Number("t", 0.5, "0 is the first member, 1 the second", low=0, high=1),),
        min_members=2,
        max_members=2,
        sorts=False,
        exactness=1e-6,
    ),
    Method(
        name="sce",
        summary="keep places of largest variance of x = w v, weigh members by energy, elect signs",
        paper="arXiv 2408.07990",
        parameters=(Number("select_topk", 1.0, _VARIED, low=0, high=1, above_low=True),),
    ),
)

METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}


def find_method(name: str) -> Method:
    """The row of `name`. Raises InvalidMerge."""
    if name not in METHODS:
        raise InvalidMerge("method", name, f"must be one of {', '.join(METHODS)}")
    return METHODS[name]


def resolve_parameters(method: str, given: Mapping[str, object]) -> dict[str, Value]:
    """Every parameter of `method`, defaults filled in, in the table's order.

    Raises InvalidMerge for an unknown method or parameter, or a value that does not do.
    """
    row = find_method(method)
    known = [parameter.name for parameter in row.parameters]
    for name in given:
        if name not in known:
            raise InvalidMerge(
                name, given[name], f"{method} takes {', '.join(known) or 'no parameter'}"
            )
    values = {p.name: p.parse(given.get(p.name, p.default)) for p in row.parameters}
    _check_together(values)
    return values


def check_members(method: str, parameters: Mapping[str, Value], count: int) -> None:
    """Raises InvalidMerge where `method` does not take `count` members."""
    row = find_method(method)
    low, high = row.min_members, row.max_members
    if not low <= count <= high:
        allowed = str(low) if low == high else f"{low} to {high}"
        raise InvalidMerge("members", count, f"{method} takes {allowed}")
    for parameter in row.parameters:
        value = parameters[parameter.name]
        if isinstance(value, tuple) and len(value) != count:
            raise InvalidMerge(parameter.name, value, f"must hold {count} numbers, one a member")


def _check_together(values: Mapping[str, Value]) -> None:
    """DELLA's probabilities, density - epsilon to density + epsilon, lie inside (0, 1)."""
    density, epsilon = values.get("density"), values.get("epsilon")
    if not isinstance(density, float) or not isinstance(epsilon, float) or density == 1:
        return
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise InvalidMerge(
            "epsilon", epsilon, f"density {density} -/+ epsilon must lie inside (0, 1)"
        )

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
_DENSITY_OF = Choice(
    "density_of",
    "nnz",
    "what density is a share of: entries named, or all of them",
    ("nnz", "numel"),
)
_SCOPE = Choice(
    "scope",
    "layer",
    "where magnitudes are ranked: in each layer, or over the adapter",
    ("layer", "adapter"),
)
_TRIM = (_DENSITY_OF, _SCOPE)
_ELECT = (
    Choice(
        "sign", "sum", "the sign of the sum of w v, or of the number of signs", ("sum", "count")
    ),
    Choice(
        "divisor",
        "count",
        "what the agreeing w v are divided by: their number, the sum of their w, or nothing",
        ("count", "weights", "none"),
    ),
)
_PRUNED = "share of a member's entries that is kept, the largest first"
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
    Method(name="linear", summary="sum of w v", paper="arXiv 2306.14870", folds=True),
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
    if not row.min_members <= count <= row.max_members:
        allowed = f"{row.min_members} to {row.max_members}"
        allowed = str(row.min_members) if row.min_members == row.max_members else allowed
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

"""Merges that need no merging: `W x + sum of c_i D_i x`, with a coefficient for each member."""

from adapters_store.canonical import round_to_fp32
from adapters_store.errors import InvalidMerge
from adapters_store.merging.recipe import Member, Recipe


def coefficients(recipe: Recipe) -> tuple[Member, ...] | None:
    """The members with the numbers that their deltas are multiplied by; None if there are none.

    A merge's own values are rounded once, after the sum; products summed one by one differ from
    that by a rounding, so which of the two a request gets must hang on the request alone. Raises
    InvalidMerge for numbers beyond fp32.
    """
    factor = _factor(recipe)
    if factor is None:
        return None
    try:
        return tuple(Member(m.digest, round_to_fp32(factor * m.weight)) for m in recipe.members)
    except OverflowError as error:
        reason = f"overflows fp32, multiplied by {factor:g}"
        largest = max((m.weight for m in recipe.members), key=abs)
        raise InvalidMerge("members", largest, reason) from error


def _factor(recipe: Recipe) -> float | None:
    """What every member's weight is multiplied by."""
    match recipe.method, len(recipe.members):
        case ("linear", _) | ("overlap_average", 1):
            return 1.0
        case "average", count:
            return 1.0 / count
        case "task_arithmetic", _:
            factor = recipe.parameters["lambda"]
            assert isinstance(factor, float)
            return factor
    return None

"""What is searched of a method's parameters: as asked, else what is usual.

Everything is checked by the table's own rows, so that no point can be refused later.
"""

from collections.abc import Mapping, Sequence

from adapters_store.errors import InvalidMerge
from adapters_store.merging.parameters import Choice, MemberNumbers, Number, Parameter
from adapters_store.merging.table import check_members, find_method
from merge_search.dimensions import Dimension, Range, Value, Values
from merge_search.errors import SearchRefused

Asked = float | str | Sequence[float | str] | Range
SCALE = "lambda"  # multiplies what free weights multiply already
# What is worth trying of a number, where the table allows more than that.
USUAL: Mapping[str, tuple[float, float]] = {
    "lambda": (0.2, 3.0),
    "density": (0.05, 1.0),
    "gamma": (0.0, 0.2),
    "epsilon": (0.0, 0.5),
    "penalty": (0.0, 4.0),
    "t": (0.0, 1.0),
    "select_topk": (0.05, 1.0),
}


def check_asked(methods: Sequence[str], asked: Mapping[str, Asked]) -> None:
    """Raise SearchRefused for an unknown method, or a parameter that none of them has."""
    try:
        known = {each.name for name in methods for each in find_method(name).parameters}
    except InvalidMerge as error:
        raise SearchRefused("methods", error.reason) from error
    for name in asked:
        if name not in known:
            told = f"{', '.join(methods)} have {', '.join(sorted(known)) or 'no parameter'}"
            raise SearchRefused(f"parameters.{name}", told)


def parameters_of(
    method: str, asked: Mapping[str, Asked], num_members: int, *, are_scaled: bool
) -> dict[str, Dimension]:
    """Every parameter of `method` in the table's order. Raises SearchRefused.

    Words that nobody asked for keep their default; so does the scale where weights are free.
    """
    row = find_method(method)
    found: dict[str, Dimension] = {}
    for each in row.parameters:
        try:
            found[each.name] = _dimension(each, asked, are_scaled=are_scaled)
        except InvalidMerge as error:
            raise SearchRefused(f"parameters.{each.name}", str(error)) from error
    _check_epsilon(found)
    values = {name: _one_of(each) for name, each in found.items() if name != "epsilon"}
    try:
        check_members(method, {"epsilon": 0.0, **values}, num_members)
    except InvalidMerge as error:
        raise SearchRefused(f"methods.{method}", str(error)) from error
    return found


def _dimension(row: Parameter, asked: Mapping[str, Asked], *, are_scaled: bool) -> Dimension:
    if row.name in asked:
        return _as_asked(row, asked[row.name])
    if isinstance(row, MemberNumbers):
        raise SearchRefused(f"parameters.{row.name}", "must be given")
    if isinstance(row, Choice) or (are_scaled and row.name == SCALE):
        return Values((row.default,))
    return Range(*USUAL[row.name])


def _as_asked(row: Parameter, asked: Asked) -> Dimension:
    if isinstance(asked, Range):
        if not isinstance(row, Number):
            raise SearchRefused(f"parameters.{row.name}", "has no range")
        return Range(row.parse(asked.low), row.parse(asked.high), asked.log)
    if isinstance(row, MemberNumbers):
        return Values((row.parse(asked),))
    several = [asked] if isinstance(asked, str | float | int) else asked
    if not several or len(set(several)) < len(several):
        raise SearchRefused(f"parameters.{row.name}", "must be at least one value, each once")
    return Values(tuple(row.parse(value) for value in several))


def _one_of(dimension: Dimension) -> Value:
    return dimension.low if isinstance(dimension, Range) else dimension.values[0]


def _check_epsilon(found: Mapping[str, Dimension]) -> None:
    """Raise SearchRefused unless the least epsilon, or each of its values, fits every density.

    A range of epsilon is cut off above, by each mix's own density.
    """
    if "epsilon" not in found:
        return
    epsilon, density = found["epsilon"], found["density"]
    largest = epsilon.low if isinstance(epsilon, Range) else max(_numbers(epsilon))
    if isinstance(density, Range):
        room = min(density.low, 1 - density.high)
    else:
        room = min(min(each, 1 - each) if each < 1 else 1 for each in _numbers(density))
    if largest > 0 and largest >= room:
        told = f"{largest:g} leaves (0, 1) at some density: density -/+ epsilon must lie inside"
        raise SearchRefused("parameters.epsilon", told)


def _numbers(values: Values) -> list[float]:
    return [float(each) for each in values.values if isinstance(each, float | int)]

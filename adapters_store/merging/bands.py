"""How much of a member is kept when it is trimmed by magnitude, in a layer or over the adapter.

Density counts the entries that the member names, or all places of its layers (`density_of`); the
number kept is exact either way. Knows the parameters of trimming, no method's name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from adapters_store.adapter import BiasDelta, WeightDelta
from adapters_store.merging.parameters import Value
from adapters_store.merging.selection import (
    EVERYTHING,
    NOTHING,
    Cut,
    Entries,
    Read,
    entries_of,
    largest,
)
from adapters_store.merging.trims import Band


def layer_band(delta: WeightDelta, parameters: Mapping[str, Any]) -> Band:
    """What of one delta is kept."""
    return _band(lambda: entries_of(delta), delta.nnz, _numel(delta), parameters)


def adapter_band(
    read: Callable[[], Iterable[WeightDelta]], parameters: Mapping[str, Value]
) -> Band:
    """What of an adapter is kept, ranked over all its layers; biases are trimmed by themselves.

    `read` gives the adapter's deltas in the order of their layers' names; it is called up to seven
    times, and one delta is in memory at a time.
    """

    def weights() -> Iterator[WeightDelta]:
        return (delta for delta in read() if not isinstance(delta, BiasDelta))

    def entries() -> Iterator[Entries]:
        return (part for delta in weights() for part in entries_of(delta))

    sizes = [(delta.nnz, _numel(delta)) for delta in weights()]
    nnz, numel = (sum(size) for size in zip(*sizes, strict=True)) if sizes else (0, 0)
    return _band(entries, nnz, numel, parameters)


def _numel(delta: WeightDelta) -> int:
    return delta.shape[0] * delta.shape[1]


def _band(read: Read, nnz: int, numel: int, parameters: Mapping[str, Any]) -> Band:
    size = nnz if parameters["density_of"] == "nnz" else numel
    target = int(parameters["density"] * size)
    if "gamma" not in parameters:
        return Band(_largest(read, max(1, target), nnz), NOTHING)
    # Fewer outliers are dropped where the density leaves no room for it.
    smallest = max(0, size - target - int(parameters["gamma"] * size))
    outliers = size - smallest - target
    return Band(_largest(read, outliers + target, nnz), _largest(read, outliers, nnz))


def _largest(read: Read, count: int, nnz: int) -> Cut:
    return EVERYTHING if count >= nnz else largest(read, count)

"""What a merge will cost, from masks' sizes alone: nothing but headers has been read.

An upper bound where masks overlap: the result is sized as if they were disjoint.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapters_store.adapter import WeightDelta
from adapters_store.errors import MergeTooLarge
from adapters_store.merging.reader import AdapterReader, Deltas, bias_of, weight_of
from adapters_store.merging.recipe import Recipe

# What one core of a server does, with the store's files in the page cache (loadtests/micro).
BYTES_PER_S = 300e6  # read and verified
ENTRIES_PER_S = 100e6  # added up
VALUE_BYTES = 4  # of a merged value, and of its index


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes read, entries added up, bytes of the result and of the fullest moment, seconds."""

    bytes_read: int
    entries: int
    result_bytes: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CostLimits:
    """The most that one merge may cost: bytes of memory at its fullest, and seconds."""

    max_bytes: int
    max_seconds: float

    def check(self, cost: Cost) -> None:
        """Raise MergeTooLarge for what costs more."""
        if cost.peak_bytes > self.max_bytes:
            raise MergeTooLarge("bytes", cost.peak_bytes, self.max_bytes)
        if cost.seconds > self.max_seconds:
            raise MergeTooLarge("seconds", cost.seconds, self.max_seconds)


def predict(recipe: Recipe, readers: Mapping[str, AdapterReader]) -> Cost:
    """The cost of merging what `readers` read, one for each digest of `recipe`, in one thread."""
    layers = {layer for reader in readers.values() for layer in reader.layers}
    outlines = [[readers[d].outline(layer) for d in recipe.digests] for layer in layers]
    read = [_num_bytes(outline) for outline in outlines]
    entries = sum(delta.nnz for outline in outlines for deltas in outline for delta in deltas)
    results = [_result_bytes(outline) for outline in outlines]
    largest = max(map(sum, zip(read, results, strict=True)), default=0)
    return Cost(
        bytes_read=sum(read),
        entries=entries,
        result_bytes=sum(results),
        peak_bytes=sum(results) + largest,
        seconds=sum(read) / BYTES_PER_S + entries / ENTRIES_PER_S,
    )


def _num_bytes(outline: Iterable[Deltas]) -> int:
    return sum(delta.num_bytes for deltas in outline for delta in deltas)


def _result_bytes(outline: Iterable[Deltas]) -> int:
    """At most this many bytes hold one merged layer."""
    weights = [weight for deltas in outline if (weight := weight_of(deltas))]
    biases = [bias for deltas in outline if (bias := bias_of(deltas))]
    return _weight_bytes(weights) + (VALUE_BYTES * biases[0].nnz if biases else 0)


def _weight_bytes(weights: list[WeightDelta]) -> int:
    if not weights:
        return 0
    numel = weights[0].shape[0] * weights[0].shape[1]
    return VALUE_BYTES * min(2 * sum(delta.nnz for delta in weights), numel)

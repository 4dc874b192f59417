"""What merging some adapters would do to them: counted, not tried.

Reads the members layer by layer, one layer of each at a time. The merge in question is the
overlap average (Eq. 4, the default method). Knows neither names nor HTTP. A bias has no place in
a weight's mask: layers that have one are named, and their biases not measured.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapters_store.adapter import BaseIdentity, WeightDelta
from adapters_store.effect import Parts
from adapters_store.errors import BaseMismatch
from adapters_store.merging.diagnostics.counts import Counts, total
from adapters_store.merging.diagnostics.entries import entries_of
from adapters_store.merging.diagnostics.forms import Prediction, predict
from adapters_store.merging.diagnostics.panels import count_panel
from adapters_store.merging.merge import common_base
from adapters_store.merging.reader import AdapterReader, bias_of, weight_of

PANEL_PLACES = 1 << 16  # what is side by side then stays in a processor's cache

RowRange = tuple[str, int, int]  # (split layer's name, or "" for a whole layer; first row; end)


@dataclass(frozen=True, slots=True)
class LayerDiagnosis:
    """One layer; `parts` are its q, k and v rows, or gate and up, where it has them."""

    layer: str
    shape: tuple[int, int]
    counts: Counts
    parts: Mapping[str, Counts]
    predicted: Prediction


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every layer that a member changes; `pooled` and `parts` are sums over all of them.

    `unmeasured_biases` are layers with a bias, which no number here counts.
    """

    layers: tuple[LayerDiagnosis, ...]
    pooled: Counts
    parts: Mapping[str, Counts]
    unmeasured_biases: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the merge's weight deltas."""
        return sum(layer.predicted.num_bytes for layer in self.layers)


def diagnose(
    members: Sequence[AdapterReader], weights: Sequence[float], parts: Parts | None = None
) -> Diagnosis:
    """Diagnose the merge of `members`, at least one, each with its finite weight.

    `parts` names the rows of fused layers. The same adapter twice is two members. Raises
    BaseMismatch where members change different weights.
    """
    assert members
    names = sorted({layer for member in members for layer in member.layers})
    common_base({member.digest: member for member in members})
    layers = []
    for layer in names:
        deltas = [weight_of(member.deltas(layer)) for member in members]
        if any(deltas):
            layers.append(diagnose_layer(deltas, weights, parts))
    biases = [name for name in names if any(bias_of(some.outline(name)) for some in members)]
    return _pool(layers, biases, len(members))


def check_base(members: Iterable[AdapterReader], base: BaseIdentity) -> None:
    """Raise BaseMismatch for a member that changes other weights than those of `base`."""
    for member in members:
        for layer, digest in member.base.items():
            own = base.layers.get(layer)
            if own is None or own.digest != digest:
                found = own.digest if own else "no such layer"
                raise BaseMismatch(layer, {member.digest: digest, f"base {base.name!r}": found})


def most_meetings(members: Sequence[AdapterReader]) -> int:
    """At most how many pairs of entries `diagnose` will look at; reads headers only."""
    layers = {layer for member in members for layer in member.layers}
    return sum(_most_meetings_at(layer, members) for layer in layers)


def _most_meetings_at(layer: str, members: Sequence[AdapterReader]) -> int:
    """Two masks share at most the smaller one."""
    deltas = [weight_of(member.outline(layer)) for member in members]
    sizes = sorted((delta.nnz for delta in deltas if delta), reverse=True)
    return sum(larger * size for larger, size in enumerate(sizes))


def _pool(layers: Sequence[LayerDiagnosis], biases: Sequence[str], num_members: int) -> Diagnosis:
    by_part: dict[str, list[Counts]] = defaultdict(list)
    for layer in layers:
        for name, counts in layer.parts.items():
            by_part[name].append(counts)
    return Diagnosis(
        layers=tuple(layers),
        pooled=total((layer.counts for layer in layers), num_members),
        parts={name: total(counts, num_members) for name, counts in by_part.items()},
        unmeasured_biases=tuple(biases),
    )


def diagnose_layer(
    deltas: Sequence[WeightDelta | None], weights: Sequence[float], parts: Parts | None = None
) -> LayerDiagnosis:
    """As `diagnose`, for one layer: None is a member that leaves it alone, not all are None."""
    present = [delta for delta in deltas if delta is not None]
    layer, shape = present[0].layer, present[0].shape
    assert all(delta.shape == shape for delta in present)
    ranges = row_ranges(layer, shape[0], parts or {})
    raw = _count_ranges(deltas, weights, shape[1], ranges)
    whole = total(raw.values(), len(deltas)).with_chance()
    split = {name: counts.with_chance() for name, counts in raw.items() if name}
    return LayerDiagnosis(layer, shape, whole, split, predict(present, whole.covered))


def row_ranges(layer: str, num_rows: int, parts: Parts) -> list[RowRange]:
    """The split layers that `layer` is made of, in order of rows; the whole of one that is not."""
    found = [
        (suffix.rpartition(".")[2], first, first + count)
        for suffix, (fused, first, count) in parts.items()
        if layer.endswith(f".{fused}")
    ]
    if not found:
        return [("", 0, num_rows)]
    found.sort(key=lambda part: part[1])
    starts, ends = [part[1] for part in found], [part[2] for part in found]
    assert [*starts, num_rows] == [0, *ends], f"{layer}: its parts do not fill {num_rows} rows"
    return found


def _count_ranges(
    deltas: Sequence[WeightDelta | None],
    weights: Sequence[float],
    num_columns: int,
    ranges: Sequence[RowRange],
) -> dict[str, Counts]:
    """Counts of each range of rows, panel by panel."""
    height = max(1, PANEL_PLACES // num_columns)
    panels = [
        (name, first, min(first + height, end))
        for name, start, end in ranges
        for first in range(start, end, height)
    ]
    bounds = [panel[1:] for panel in panels]
    cut = [None if delta is None else entries_of(delta, bounds) for delta in deltas]
    counts = {name: Counts.none(len(deltas)) for name, _, _ in ranges}
    for number, (name, first, end) in enumerate(panels):
        members = [None if entries is None else entries.of(number) for entries in cut]
        counts[name] += count_panel((end - first) * num_columns, members, weights)
    return counts

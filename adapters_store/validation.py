"""The gate: whether an adapter is well formed and fits a base. Everything from outside passes it.

Every check answers with reasons that name the layer, the field and the value. Knows nothing of
files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

from adapters_store.adapter import (
    BaseIdentity,
    BiasDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from adapters_store.delta_rules import form_reasons
from adapters_store.each import Each, in_turn
from adapters_store.errors import AdapterRefused, AdapterTooLarge


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest upload, the most numbers of one adapter, and bounds on a safetensors header.

    The header's are far above what real adapters have: they bound what is spent on a hostile one.
    """

    max_file_bytes: int
    max_nnz: int
    max_header_bytes: int = 4 << 20
    max_tensors: int = 10_000
    max_tensor_bytes: int = 1 << 31


def check(adapter: SparseAdapter, base: BaseIdentity, limits: Limits, each: Each = in_turn) -> None:
    """Raise AdapterRefused, with every reason found, unless `base` can use `adapter`."""
    stored = sum(_num_values(delta) for delta in adapter.deltas)
    if stored > limits.max_nnz:
        raise AdapterTooLarge("entries", stored, limits.max_nnz)
    reasons = [*_set_reasons(adapter), *_base_reasons(adapter, base)]
    reasons += chain(*each(lambda delta: _delta_reasons(delta, base), adapter.deltas))
    if reasons:
        raise AdapterRefused(reasons)


def _num_values(delta: WeightDelta) -> int:
    """Numbers that are stored: for a low rank delta its factors, not the entries it changes."""
    if isinstance(delta, LowRankDelta):
        return delta.a.numel() + delta.b.numel()
    return delta.nnz


def _set_reasons(adapter: SparseAdapter) -> Iterator[str]:
    if not adapter.deltas:
        yield "deltas: there are none"
    keys = [(delta.layer, delta.kind) for delta in adapter.deltas]
    if keys != sorted(keys):
        later = next(after for before, after in pairwise(keys) if after < before)
        yield f"deltas: not sorted by layer and kind, at {later[0]} ({later[1]})"
    for role, kinds in _kinds_by_role(adapter).items():
        if len(kinds) > 1:
            yield f"{role[0]}: more than one {role[1]} delta: {', '.join(kinds)}"


def _kinds_by_role(adapter: SparseAdapter) -> dict[tuple[str, str], list[str]]:
    kinds: dict[tuple[str, str], list[str]] = {}
    for delta in adapter.deltas:
        role = "bias" if isinstance(delta, BiasDelta) else "weight"
        kinds.setdefault((delta.layer, role), []).append(delta.kind)
    return kinds


def _base_reasons(adapter: SparseAdapter, base: BaseIdentity) -> Iterator[str]:
    touched = set(adapter.layers)
    for layer in sorted(set(adapter.base) - touched):
        yield f"{layer}: base digest of a layer that no delta touches"
    for layer in sorted(touched):
        if layer not in base.layers:
            yield f"{layer}: layer: unknown to the base {base.name!r}"
        elif layer not in adapter.base:
            yield f"{layer}: base digest: missing"
        elif adapter.base[layer] != base.layers[layer].digest:
            found, wanted = _short(adapter.base[layer]), _short(base.layers[layer].digest)
            yield f"{layer}: base digest: the file is for another base: {found}, not {wanted}"


def _short(digest: str) -> str:
    """Enough of a digest to tell two apart."""
    return f"{digest[:15]}..."


def _delta_reasons(delta: WeightDelta, base: BaseIdentity) -> list[str]:
    reasons = [*_shape_reasons(delta, base), *form_reasons(delta)]
    return [f"{delta.layer}: {reason}" for reason in reasons]


def _shape_reasons(delta: WeightDelta, base: BaseIdentity) -> Iterator[str]:
    known = base.layers.get(delta.layer)
    if known and delta.shape != known.shape:
        yield f"shape: {list(delta.shape)}, but the base has {list(known.shape)}"

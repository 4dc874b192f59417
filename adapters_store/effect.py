"""How much an adapter changes: the report that an upload and its stats answer with.

Judges nothing: an adapter that changes almost nothing is still an adapter. Asks whoever has the
base for its weights, a few rows at a time, and never builds a whole dense product.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)

BASE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WINDOW_ROWS = 1024  # of a sparse delta that are looked at together
SAMPLED_WINDOWS, SAMPLED_ROWS = 8, 8  # of a full one, which changes every row alike

# Split module's suffix -> (fused module's suffix, first row, number of rows).
Parts = Mapping[str, tuple[str, int, int]]


class BaseWeights(Protocol):
    """The base's own weights."""

    def entries(self, layer: str, rows: slice) -> Tensor:
        """Rows of a linear layer's weight as stored, widened to fp32: `[rows, in]`."""


@dataclass(frozen=True, slots=True)
class PartEffect:
    """Some rows of a delta: entries named, their share of the rows, l2 norm of the change.

    `changed` is, by dtype of a base, the share of the named entries that differ from the base once
    base + delta is rounded to that dtype; from a sample of rows for deltas that name every entry.
    None where it is not known: for a bias, and without the base's weights.
    """

    name: str
    nnz: int
    density: float
    norm: float
    changed: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """One delta, as PartEffect has it; `parts` are the split layers that its layer is made of."""

    layer: str
    kind: str
    nnz: int
    density: float
    norm: float
    changed: Mapping[str, float] | None
    parts: tuple[PartEffect, ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """Every delta of an adapter, and the totals over them.

    `other_base` names the layers whose base digest is not that of the base asked about.
    """

    digest: str
    layers: tuple[LayerEffect, ...]
    nnz: int
    density: float
    norm: float
    other_base: tuple[str, ...] = ()


def effect_of(
    adapter: SparseAdapter,
    parts: Parts | None = None,
    base: BaseWeights | None = None,
    other_base: Sequence[str] = (),
) -> Effect:
    """The effect of a well-formed adapter; layers of `other_base` are not compared with `base`."""
    layers = tuple(
        _layer_effect(delta, {}, None)
        if delta.layer in other_base
        else _layer_effect(delta, parts or {}, base)
        for delta in adapter.deltas
    )
    return Effect(
        digest=adapter.digest,
        layers=layers,
        nnz=sum(layer.nnz for layer in layers),
        density=adapter.nnz / sum(_num_places(delta, delta.shape[0]) for delta in adapter.deltas),
        norm=math.hypot(*(layer.norm for layer in layers)),
        other_base=tuple(other_base),
    )


def _layer_effect(delta: WeightDelta, parts: Parts, base: BaseWeights | None) -> LayerEffect:
    split = [_part_effect(delta, *part, base) for part in _row_ranges(delta, parts)]
    named = tuple(part for part in split if part.nnz or len(split) > 1)
    return LayerEffect(
        layer=delta.layer,
        kind=delta.kind,
        nnz=delta.nnz,
        density=delta.nnz / _num_places(delta, delta.shape[0]),
        norm=math.hypot(*(part.norm for part in split)),
        changed=_whole_share(split),
        parts=named if len(split) > 1 else (),
    )


def _whole_share(parts: Sequence[PartEffect]) -> dict[str, float] | None:
    """The share over all parts, each counted by its entries."""
    known = [part for part in parts if part.changed is not None]
    total = sum(part.nnz for part in known)
    if not total:
        return None
    return {
        name: sum(part.nnz * part.changed[name] for part in known if part.changed) / total
        for name in BASE_DTYPES
    }


def _row_ranges(delta: WeightDelta, parts: Parts) -> list[tuple[str, int, int]]:
    """(split layer's name, first row, end) of the delta's layer; the whole of one that is not."""
    found = [
        (suffix.rpartition(".")[2], first, first + count)
        for suffix, (fused, first, count) in parts.items()
        if delta.layer.endswith(f".{fused}")
    ]
    return found or [("", 0, delta.shape[0])]


def _part_effect(
    delta: WeightDelta, name: str, first: int, end: int, base: BaseWeights | None
) -> PartEffect:
    nnz, squares = _measure(delta, first, end)
    return PartEffect(
        name=name,
        nnz=nnz,
        density=nnz / _num_places(delta, end - first),
        norm=abs(delta.scale) * math.sqrt(squares),
        changed=None if base is None else _changed(delta, first, end, base),
    )


def _num_places(delta: WeightDelta, num_rows: int) -> int:
    return num_rows if isinstance(delta, BiasDelta) else num_rows * delta.shape[1]


def _measure(delta: WeightDelta, first: int, end: int) -> tuple[int, float]:
    """Entries that D names in these rows, and the sum of their squares without its scale."""
    match delta:
        case LowRankDelta():
            # |B A|^2 = sum of (B'B) * (A A'): two r x r matrices instead of out x in.
            a, b = delta.a.double(), delta.b[first:end].double()
            squares = max(0.0, float(((b.T @ b) * (a @ a.T)).sum()))
            return (end - first) * delta.shape[1], squares
        case ElementDelta() | BlockDelta():
            values = _entries(delta, first, end)[1]
        case DenseDelta():
            values = delta.delta[first:end]
        case BiasDelta():
            values = delta.bias[first:end]
        case _:
            raise AssertionError(f"a delta of kind {delta.kind!r} has no norm")
    return values.numel(), float(values.double().square().sum())


def _changed(
    delta: WeightDelta, first: int, end: int, base: BaseWeights
) -> dict[str, float] | None:
    """By dtype, the share of the named entries of these rows that rounding leaves changed."""
    counts, total = dict.fromkeys(BASE_DTYPES, 0), 0
    for start, stop in _windows(delta, first, end):
        places, values = _window_entries(delta, start, stop)
        before = base.entries(delta.layer, slice(start, stop)).flatten()[places]
        total += values.numel()
        for name, dtype in BASE_DTYPES.items():
            rounded = before.to(dtype)
            after = (rounded.float() + values).to(dtype)
            counts[name] += int((after != rounded).sum())
    return {name: count / total for name, count in counts.items()} if total else None


def _windows(delta: WeightDelta, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Rows to look at together: all of a sparse delta's, evenly spaced ones of a full one."""
    if isinstance(delta, BiasDelta):
        return
    is_sparse = isinstance(delta, ElementDelta | BlockDelta)
    size = WINDOW_ROWS if is_sparse else SAMPLED_ROWS
    step = size if is_sparse else max(size, (end - first) // SAMPLED_WINDOWS)
    for start in range(first, end, step):
        yield start, min(start + size, end)


def _window_entries(delta: WeightDelta, start: int, stop: int) -> tuple[Tensor | slice, Tensor]:
    """Flat places within these rows, and the fp32 values that are added there."""
    match delta:
        case LowRankDelta():
            values = delta.b[start:stop].float() @ delta.a.float()
            return slice(None), values.flatten() * delta.scale
        case DenseDelta():
            return slice(None), delta.delta[start:stop].float().flatten() * delta.scale
        case ElementDelta() | BlockDelta():
            places, values = _entries(delta, start, stop)
            return places - start * delta.shape[1], values.float() * delta.scale
        case _:
            raise AssertionError(f"a delta of kind {delta.kind!r} has no place in the weight")


def _entries(delta: ElementDelta | BlockDelta, first: int, end: int) -> tuple[Tensor, Tensor]:
    """Flat indices into the weight (int64) and values, of the entries in these rows."""
    columns = delta.shape[1]
    if isinstance(delta, ElementDelta):
        low, high = _position(delta, first), _position(delta, end)
        return delta.indices[low:high].long(), delta.values[low:high]
    rows = delta.rows()
    is_within = (rows >= first) & (rows < end)  # [n, Br]
    flat = rows[:, :, None] * columns + delta.columns()[:, None, :]
    return flat[is_within].flatten(), delta.values[is_within].flatten()


def _position(delta: ElementDelta, row: int) -> int:
    """Where this row's entries begin among the sorted indices."""
    if row == delta.shape[0]:  # its index may be too large for the indices' own type
        return len(delta.indices)
    return int(torch.searchsorted(delta.indices, row * delta.shape[1]))

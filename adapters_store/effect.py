"""How much an adapter changes: the report that an upload answers with.

Judges nothing: an adapter that changes almost nothing is still an adapter.
"""

import math
from dataclasses import dataclass

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """One delta: entries named, their share of the weight or bias, l2 norm of the change."""

    layer: str
    kind: str
    nnz: int
    density: float
    norm: float


@dataclass(frozen=True, slots=True)
class Effect:
    """Every delta of an adapter, and the totals over them."""

    layers: tuple[LayerEffect, ...]
    nnz: int
    norm: float


def effect_of(adapter: SparseAdapter) -> Effect:
    """The effect of a checked adapter, without ever building a dense product."""
    layers = tuple(_layer_effect(delta) for delta in adapter.deltas)
    return Effect(
        layers,
        nnz=sum(layer.nnz for layer in layers),
        norm=math.sqrt(math.fsum(layer.norm**2 for layer in layers)),
    )


def _layer_effect(delta: WeightDelta) -> LayerEffect:
    out, columns = delta.shape
    places = out if isinstance(delta, BiasDelta) else out * columns
    norm = abs(delta.scale) * math.sqrt(_squares(delta))
    return LayerEffect(delta.layer, delta.kind, delta.nnz, delta.nnz / places, norm)


def _squares(delta: WeightDelta) -> float:
    """Sum of the squares of D, without its scale, in fp64."""
    match delta:
        case LowRankDelta():
            # |B A|^2 = sum of (B'B) * (A A'): two r x r matrices instead of out x in.
            a, b = delta.a.double(), delta.b.double()
            return max(0.0, float(((b.T @ b) * (a @ a.T)).sum()))
        case ElementDelta() | BlockDelta():
            return float(delta.values.double().square().sum())
        case DenseDelta():
            return float(delta.delta.double().square().sum())
        case BiasDelta():
            return float(delta.bias.double().square().sum())
    raise AssertionError(f"a delta of kind {delta.kind!r} has no norm")

"""ComPEFT's compression: every value becomes its sign, with one scale for the whole adapter.

The scale is the mean of the magnitudes, which is the one of least squared error for given signs.
(ComPEFT itself tries factors of the standard deviation on a validation set.) Signs are stored as
f16, the narrowest dtype of the format. Low rank factors are made ternary each, as ComPEFT does, so
their product carries the scale twice. Masks stay as they are: a zero stays a zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
from adapters_store.errors import AdapterRefused

SIGNS = torch.float16


@dataclass(frozen=True, slots=True)
class Compression:
    """The compressed adapter, and its relative error |D - D'| / |D| (Frobenius) by layer."""

    adapter: SparseAdapter
    errors: Sequence[tuple[WeightDelta, float]]  # delta as it was, its relative error
    error: float  # over all deltas


def compress(adapter: SparseAdapter, *, per_tensor: bool = False) -> Compression:
    """Ternary values with one scale for the adapter, or one for each tensor."""
    tensors = [values for delta in adapter.deltas for values in _values(delta)]
    common = None if per_tensor else _scale(tensors)
    deltas = tuple(_ternary(delta, common) for delta in adapter.deltas)
    squares = [_squares(*pair) for pair in zip(adapter.deltas, deltas, strict=True)]
    errors = [(d, _relative([s])) for d, s in zip(adapter.deltas, squares, strict=True)]
    return Compression(replace(adapter, deltas=deltas), errors, _relative(squares))


def _values(delta: WeightDelta) -> list[Tensor]:
    """The value tensors, in fp64. A scale is part of single values, but not of factors."""
    match delta:
        case LowRankDelta():
            return [delta.a.double(), delta.b.double()]
        case ElementDelta() | BlockDelta():
            return [delta.values.double() * delta.scale]
        case DenseDelta():
            return [delta.delta.double() * delta.scale]
        case BiasDelta():
            return [delta.bias.double() * delta.scale]
    raise AssertionError(f"a delta of kind {delta.kind!r} has no values")


def _scale(tensors: Sequence[Tensor]) -> float:
    count = sum(int(values.count_nonzero()) for values in tensors)
    if not count:
        raise AdapterRefused(["every value is zero: there is no scale"])
    return sum(float(values.abs().sum()) for values in tensors) / count


def _ternary(delta: WeightDelta, common: float | None) -> WeightDelta:
    values = _values(delta)
    signs = [tensor.sign().to(SIGNS) for tensor in values]
    scales = [common if common is not None else _scale([tensor]) for tensor in values]
    match delta:
        case LowRankDelta():
            scale = delta.scale * scales[0] * scales[1]
            return replace(delta, scale=scale, a=signs[0], b=signs[1])
        case ElementDelta() | BlockDelta():
            return replace(delta, scale=scales[0], values=signs[0])
        case DenseDelta():
            return replace(delta, scale=scales[0], delta=signs[0])
        case BiasDelta():
            return replace(delta, scale=scales[0], bias=signs[0])
    raise AssertionError(f"a delta of kind {delta.kind!r} has no values")


def _squares(before: WeightDelta, after: WeightDelta) -> tuple[float, float]:
    """|D - D'|^2 and |D|^2, from the values alone where those are the entries."""
    if isinstance(before, LowRankDelta):
        old, new = before.dense().double(), after.dense().double()
    else:
        [old], [new] = _values(before), _values(after)
    return float((old - new).square().sum()), float(old.square().sum())


def _relative(squares: Iterable[tuple[float, float]]) -> float:
    lost, whole = (sum(column) for column in zip(*squares, strict=True))
    return float((lost / whole) ** 0.5) if whole else 0.0

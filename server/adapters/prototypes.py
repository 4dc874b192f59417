"""Prototypes: for every weight delta of an adapter, the input direction that it amplifies most.

That is the top right-singular vector of the delta, a unit vector `[in]`. A layer where the
adapter has no weight delta, or one of zeros only, has none. Knows neither routers nor devices.

Found by Lanczos steps on `D^T D` in fp64, from the same start for every delta of a width, so that
an adapter always has the same prototypes. Where the two largest singular values are equal, any
unit vector of their space is as good; this is the start's projection onto it. Where they differ by
less than what STEPS and ROUNDS can tell apart, it is some vector that is amplified as much.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import (
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)

STEPS = 64  # Lanczos vectors kept at a time: STEPS * in * 8 bytes
ROUNDS = 16  # restarts from the best vector so far
TOLERANCE = 1e-10  # |D^T D v - s^2 v|, in units of s^2

Gram = Callable[[Tensor], Tensor]  # v -> D^T D v, fp64 [in] -> [in]


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """The directions of one adapter, by layer."""

    directions: Mapping[str, Tensor]  # [in] fp32 each

    @property
    def num_bytes(self) -> int:
        return sum(direction.nbytes for direction in self.directions.values())


def make_prototypes(adapter: SparseAdapter) -> Prototypes:
    """The prototypes of all layers that have one."""
    found = {delta.layer: top_direction(delta) for delta in adapter.deltas if delta.kind != "bias"}
    return Prototypes({layer: v for layer, v in found.items() if v is not None})


def top_direction(delta: WeightDelta) -> Tensor | None:
    """Top right-singular vector `[in]` of a weight delta, in fp32; None if the delta is zero."""
    gram = _gram(delta)
    direction = _start(delta.shape[1])
    if delta.scale == 0.0 or not gram(direction).any():
        return None
    for _ in range(ROUNDS):
        direction, residual = _improve(gram, direction)
        if residual <= TOLERANCE:
            break
    return direction.float()


def _start(width: int) -> Tensor:
    """A unit vector that no delta is likely to send to zero."""
    drawn = np.random.Generator(np.random.Philox(0)).random(width) - 0.5
    return _unit(torch.from_numpy(drawn))


def _improve(gram: Gram, start: Tensor) -> tuple[Tensor, float]:
    """Of a Krylov space, the vector that `gram` stretches most, and its relative residual."""
    basis = start.new_empty(min(STEPS, len(start)), len(start))
    alphas, betas, vector = [], [], start
    for step in range(len(basis)):
        basis[step] = vector
        known = basis[: step + 1]
        image = gram(vector)
        alphas.append(float(vector @ image))
        for _ in range(2):  # the second time takes away what rounding left of the first
            image = image - known.T @ (known @ image)
        betas.append(float(image.norm()))
        if betas[-1] <= TOLERANCE * max(alphas):
            break
        vector = image / betas[-1]
    stretch, weights = torch.linalg.eigh(_tridiagonal(alphas, betas[:-1]))
    best = weights[:, -1]
    return _unit(best @ known), betas[-1] * abs(float(best[-1])) / float(stretch[-1])


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    upper = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + upper + upper.T


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm()
    return unit


def _gram(delta: WeightDelta) -> Gram:
    """Products with `D^T D`; the scale of the delta changes no direction."""
    match delta:
        case ElementDelta():
            columns = delta.shape[1]
            indices = delta.indices.long()
            return partial(
                _sparse_gram, indices // columns, indices % columns, delta.values.double()
            )
        case BlockDelta():
            shape = delta.values.shape
            rows = delta.rows()[:, :, None].expand(shape).flatten()
            columns_of = delta.columns()[:, None, :].expand(shape).flatten()
            return partial(_sparse_gram, rows, columns_of, delta.values.double().flatten())
        case LowRankDelta():
            a, b = delta.a.double(), delta.b.double()
            inner = b.T @ b
            return lambda v: a.T @ (inner @ (a @ v))
        case DenseDelta():
            matrix = delta.delta.double()
            return lambda v: matrix.T @ (matrix @ v)
    raise AssertionError(f"unknown kind of delta: {delta.kind}")


def _sparse_gram(rows: Tensor, columns: Tensor, values: Tensor, vector: Tensor) -> Tensor:
    num_rows = int(rows.max()) + 1 if len(rows) else 0
    image = vector.new_zeros(num_rows).index_add_(0, rows, values * vector[columns])
    return torch.zeros_like(vector).index_add_(0, columns, values * image[rows])

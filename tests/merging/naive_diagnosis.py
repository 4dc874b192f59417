"""A diagnosis from the definitions: whole dense matrices, one number at a time, in fp64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.adapter import BlockDelta, ElementDelta, LowRankDelta, WeightDelta

Dense = NDArray[Any]


def mask_of(delta: WeightDelta | None, shape: tuple[int, int]) -> Dense:
    """Which places the delta names."""
    mask = np.zeros(shape, bool)
    if isinstance(delta, ElementDelta):
        for index in delta.indices.tolist():
            mask[index // shape[1], index % shape[1]] = True
    elif isinstance(delta, BlockDelta):
        for rows, columns in zip(delta.rows().numpy(), delta.columns().numpy(), strict=True):
            mask[np.ix_(rows, columns)] = True
    elif delta is not None:
        mask[:] = True
    return mask


def values_of(delta: WeightDelta | None, shape: tuple[int, int]) -> Dense:
    """`scale * D`; a product of factors is not rounded to fp32 as `dense()` has it."""
    if isinstance(delta, LowRankDelta):
        return (delta.b.double() @ delta.a.double()).numpy() * delta.scale
    return np.zeros(shape) if delta is None else delta.dense().double().numpy()


class Naive:
    """The numbers of some rows of a layer."""

    def __init__(
        self, deltas: Sequence[WeightDelta | None], weights: Sequence[float], rows: slice
    ) -> None:
        shape = next(delta.shape for delta in deltas if delta is not None)
        self.masks = [mask_of(delta, shape)[rows] for delta in deltas]
        self.deltas = [values_of(delta, shape)[rows] for delta in deltas]
        self.parts = [w * delta for w, delta in zip(weights, self.deltas, strict=True)]
        self.held: Dense = np.sum(self.masks, axis=0)
        self.merged: Dense = np.sum(self.parts, axis=0) / np.maximum(self.held, 1)

    def whole(self) -> dict[str, float]:
        covered, contested = int((self.held > 0).sum()), int((self.held > 1).sum())
        parts = np.stack(self.parts)
        both: Dense = np.logical_and((parts > 0).any(0), (parts < 0).any(0))
        return {
            "places": self.held.size,
            "covered": covered,
            "coverage": covered / self.held.size,
            "mean_overlap": _over(self.held.sum(), covered),
            "contested": contested,
            "sign_conflict": _over((both & (self.held > 1)).sum(), contested),
        }

    def histogram(self) -> list[int]:
        return [int((self.held == count).sum()) for count in range(1, len(self.masks) + 1)]

    def member(self, i: int) -> dict[str, float]:
        mask, delta = self.masks[i], self.deltas[i]
        mass = np.abs(delta).sum()
        left = (np.abs(self.parts[i]) / np.maximum(self.held, 1)).sum()
        outside = np.square(self.merged[~mask]).sum()
        return {
            "nnz": mask.sum(),
            "density": mask.mean(),
            "norm": float(np.linalg.norm(delta)),
            "kept_mass": _over(left, mass),
            "distortion": _over(np.linalg.norm(mask * self.merged - delta), np.linalg.norm(delta)),
            "outside_energy": _over(outside, np.square(self.merged).sum()),
        }

    def pair(self, i: int, j: int) -> dict[str, float]:
        one, other, size = self.masks[i], self.masks[j], self.held.size
        both = one & other
        shared, counts = both.sum(), (one.sum(), other.sum())
        a, b = self.parts[i], self.parts[j]
        return {
            "shared": shared,
            "jaccard": _over(shared, (one | other).sum()),
            "overlap": _over(shared, min(counts)),
            "lift": _over(shared, counts[0] * counts[1] / size),
            "sign_conflict": _over((a * b < 0).sum(), shared),
            "cosine": _cosine(a, b),
            "cosine_shared": _cosine(a[both], b[both]),
            "norm_ratio": _over(np.linalg.norm(a), np.linalg.norm(b)),
            "norm_ratio_shared": _over(np.linalg.norm(a[both]), np.linalg.norm(b[both])),
        }


def _cosine(a: Dense, b: Dense) -> float:
    return _over((a * b).sum(), np.linalg.norm(a) * np.linalg.norm(b))


def _over(part: Any, whole: Any) -> float:
    """NaN where there is nothing to divide by."""
    return float(part / whole) if whole else float("nan")

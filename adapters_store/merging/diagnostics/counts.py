"""The sums that every number of a diagnosis is a ratio of. They add up; ratios do not.

N members i, each with mask M_i, delta D_i and contribution C_i = weight_i * D_i. The merge is the
overlap average of ALGORITHMS' Eq. 4: m = sum(C_i) / max(F, 1), F = how many masks hold a place.
A ratio of nothing to nothing is NaN.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Counts:
    """What was counted over some places of some layers; `[N, N]` is of member i with member j."""

    places: int
    held: Ints  # [N + 1], places that F = 0..N masks hold
    conflicted: int  # places where contributions have both signs
    shared: Ints  # [N, N], places in both masks
    expected: Floats  # [N, N], of those, as many as random masks of these sizes would share
    opposed: Ints  # [N, N], shared places where contributions have opposite signs
    dots: Floats  # [N, N], sum of C_i * C_j
    squares: Floats  # [N, N], sum of C_i ** 2 where M_j
    merged: float  # sum of m ** 2
    merged_inside: Floats  # [N], of that, where M_i
    own: Floats  # [N], sum of D_i ** 2
    moved: Floats  # [N], sum of (m - D_i) ** 2 where M_i
    mass: Floats  # [N], sum of |D_i|
    kept: Floats  # [N], sum of |C_i| / F

    @classmethod
    def none(cls, num_members: int) -> "Counts":
        """Of no place at all."""
        one, two = np.zeros(num_members), np.zeros((num_members, num_members))
        whole = np.zeros((num_members, num_members), np.int64)
        return cls(
            places=0,
            held=np.zeros(num_members + 1, np.int64),
            conflicted=0,
            shared=whole,
            expected=two,
            opposed=whole,
            dots=two,
            squares=two,
            merged=0.0,
            merged_inside=one,
            own=one,
            moved=one,
            mass=one,
            kept=one,
        )

    def __add__(self, other: "Counts") -> "Counts":
        names = [field.name for field in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def with_chance(self) -> "Counts":
        """With `expected` for masks that are drawn over just these places."""
        return replace(self, expected=np.outer(self.nnz, self.nnz) / max(self.places, 1))

    @property
    def nnz(self) -> Ints:
        """Places that each mask holds."""
        return self.shared.diagonal()

    @property
    def covered(self) -> int:
        """Places that any mask holds: the entries of the merge."""
        return int(self.held[1:].sum())

    @property
    def contested(self) -> int:
        """Places that several masks hold."""
        return int(self.held[2:].sum())

    @property
    def coverage(self) -> float:
        return float(ratio(self.covered, self.places))

    @property
    def mean_overlap(self) -> float:
        """Mean F over the covered places."""
        return float(ratio(self.nnz.sum(), self.covered))

    @property
    def sign_conflict(self) -> float:
        """Share of the contested places where contributions have both signs."""
        return float(ratio(self.conflicted, self.contested))

    @property
    def density(self) -> Floats:
        return ratio(self.nnz, self.places)

    @property
    def norm(self) -> Floats:
        """l2 norm of D_i."""
        return np.sqrt(self.own)

    @property
    def kept_mass(self) -> Floats:
        """Share of |D_i| that is left of it once it is weighted and divided by F."""
        return ratio(self.kept, self.mass)

    @property
    def distortion(self) -> Floats:
        """Masked interference: |M_i m - D_i| / |D_i|."""
        return np.sqrt(ratio(self.moved, self.own))

    @property
    def outside_energy(self) -> Floats:
        """Non-masked interference: |(1 - M_i) m|^2 / |m|^2."""
        return ratio(np.maximum(self.merged - self.merged_inside, 0.0), self.merged)

    @property
    def jaccard(self) -> Floats:
        return ratio(self.shared, self.nnz[:, None] + self.nnz - self.shared)

    @property
    def overlap(self) -> Floats:
        """Overlap coefficient: the share of the smaller mask that is shared."""
        return ratio(self.shared, np.minimum(self.nnz[:, None], self.nnz))

    @property
    def lift(self) -> Floats:
        """Shared places over those of random masks: 1 where masks know nothing of each other."""
        return ratio(self.shared, self.expected)

    @property
    def pair_conflict(self) -> Floats:
        """Share of the shared places where contributions have opposite signs."""
        return ratio(self.opposed, self.shared)

    @property
    def cosine(self) -> Floats:
        """Of whole contributions."""
        return ratio(self.dots, _lengths(self.squares.diagonal()[:, None], self.squares.diagonal()))

    @property
    def cosine_shared(self) -> Floats:
        """Of contributions where both masks are."""
        return ratio(self.dots, _lengths(self.squares, self.squares.T))

    @property
    def norm_ratio(self) -> Floats:
        """|C_i| / |C_j|."""
        return np.sqrt(ratio(self.squares.diagonal()[:, None], self.squares.diagonal()))

    @property
    def norm_ratio_shared(self) -> Floats:
        """|C_i| / |C_j| where both masks are."""
        return np.sqrt(ratio(self.squares, self.squares.T))


def total(counts: Iterable[Counts], num_members: int) -> Counts:
    return reduce(Counts.__add__, counts, Counts.none(num_members))


def ratio(part: Ints | Floats | float, whole: Ints | Floats | float) -> Floats:
    """`part / whole`, NaN where `whole` is 0."""
    above, below = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    divided = np.full(above.shape, np.nan)
    np.divide(above, below, out=divided, where=below != 0)
    return divided


def _lengths(left: Floats, right: Floats) -> Floats:
    """sqrt(left * right), whose product must neither overflow nor vanish."""
    return np.sqrt(left) * np.sqrt(right)

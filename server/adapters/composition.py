"""What a request asks for, as bookkeeping: adapter digests with coefficients. Knows no tensors."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

from adapters_store.canonical import fp32_hex, round_to_fp32, sha256_of


class Member(NamedTuple):
    """One adapter version and the number its delta is multiplied by (an fp32 value)."""

    digest: str
    coefficient: float


@dataclass(frozen=True)
class Composition:
    """`W + sum of coefficient * delta`: linear, so members are sorted by digest and folded.

    Equal compositions are equal values, whatever the order in which a request named the members.
    A coefficient of zero adds nothing, so such a member is left out; the base is the empty one.
    """

    members: tuple[Member, ...] = ()

    @classmethod
    def linear(cls, weighted: Iterable[tuple[str, float]]) -> Self:
        """Fold (digest, weight) pairs: equal digests add up, in fp64, rounded once to fp32."""
        totals: dict[str, float] = defaultdict(float)
        for digest, weight in weighted:
            totals[digest] += weight
        rounded = ((digest, round_to_fp32(total)) for digest, total in sorted(totals.items()))
        return cls(tuple(Member(digest, c) for digest, c in rounded if c != 0.0))

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(member.digest for member in self.members)

    @cached_property
    def digest(self) -> str:
        """Identity of the composition: part of the key of every page computed with it."""
        members = [[member.digest, fp32_hex(member.coefficient)] for member in self.members]
        return sha256_of({"method": "linear", "members": members})


BASE = Composition()

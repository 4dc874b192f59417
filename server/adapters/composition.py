"""What a request asks for, as bookkeeping: adapter digests with coefficients, and who sets them.

Knows no tensors.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Self

from adapters_store.canonical import fp32_hex, round_to_fp32, sha256_of
from adapters_store.errors import InvalidMerge

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e6  # of a router: fp32 holds every quotient between


class Member(NamedTuple):
    """One adapter version and the number its delta is multiplied by (an fp32 value)."""

    digest: str
    coefficient: float


@dataclass(frozen=True)
class ArrowRouter:
    """Arrow (Ostapenko et al., 2024): every token takes most of the adapters that know its input.

    In every linear layer, `softmax(|x . v_i| / temperature)` over the members, v_i being member
    i's prototype there (`prototypes.py`); with a `top_k`, over the k members of largest |x . v_i|
    alone, the smaller digest first among equals. `routing.py` computes it.
    """

    temperature: float  # an fp32 value from MIN_TEMPERATURE to MAX_TEMPERATURE
    top_k: int | None  # at least 1; None: all

    @property
    def header(self) -> dict[str, Any]:
        """Everything that it does, to be hashed."""
        temperature = fp32_hex(self.temperature)
        return {"method": "arrow", "temperature": temperature, "top_k": self.top_k}


@dataclass(frozen=True)
class Composition:
    """`W + sum of coefficient * delta`, the same for every token; or, with a router,
    `W x + sum of share(x) * coefficient * delta x`, its shares by token and linear layer.

    Equal compositions are equal values, whatever the order in which a request named the members:
    they are sorted by digest, each once. What a router reads beside them is resident as
    `prototypes_id` of each. The base is the empty one.
    """

    members: tuple[Member, ...] = ()
    router: ArrowRouter | None = None

    @classmethod
    def linear(cls, weighted: Iterable[tuple[str, float]]) -> Self:
        """Fold (digest, weight) pairs: equal digests add up, in fp64, rounded once to fp32.

        A coefficient of zero adds nothing, so such a member is left out.
        """
        totals: dict[str, float] = defaultdict(float)
        for digest, weight in weighted:
            totals[digest] += weight
        rounded = ((digest, round_to_fp32(total)) for digest, total in sorted(totals.items()))
        return cls(tuple(Member(digest, c) for digest, c in rounded if c != 0.0))

    @classmethod
    def arrow(
        cls, weighted: Iterable[tuple[str, float]], temperature: float, top_k: int | None
    ) -> Self:
        """Route among the adapters of (digest, weight) pairs. Raises InvalidMerge.

        Copies would each take a share of their own, so an adapter may come only once. A member of
        weight 0 stays: what goes to it goes to the base. A single member gets every share, so it
        is the linear composition; so is nothing but members of weight 0. A `top_k` that leaves
        nobody out is none.
        """
        if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
            reason = f"must be from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            raise InvalidMerge("temperature", temperature, reason)
        if top_k is not None and top_k < 1:
            raise InvalidMerge("top_k", top_k, "must be at least 1")
        rounded = ((digest, round_to_fp32(weight)) for digest, weight in sorted(weighted))
        members = tuple(Member(digest, c + 0.0) for digest, c in rounded)  # -0.0 is 0.0
        for former, latter in pairwise(members):
            if former.digest == latter.digest:
                raise InvalidMerge("members", latter.digest, "is routed to more than once")
        if len(members) < 2 or not any(member.coefficient for member in members):
            return cls.linear(members)
        chosen = top_k if top_k is not None and top_k < len(members) else None
        return cls(members, ArrowRouter(round_to_fp32(temperature), chosen))

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(member.digest for member in self.members)

    @cached_property
    def digest(self) -> str:
        """Identity of the composition: part of the key of every page computed with it."""
        members = [[member.digest, fp32_hex(member.coefficient)] for member in self.members]
        header = {"method": "linear"} if self.router is None else self.router.header
        return sha256_of({**header, "members": members})


PROTOTYPES = "prototypes:"


def prototypes_id(digest: str) -> str:
    """What an adapter's prototypes are known by in the tiers of memory."""
    return PROTOTYPES + digest


BASE = Composition()

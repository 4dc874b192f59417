"""A merge as a value: which adapters, at which weights, by which method. Knows no tensors.

A recipe has one text, canonical JSON, and one digest: recipes that mean the same are the same
bytes. Members are named by digest, so a recipe means the same everywhere and for ever; weights are
fp32, written as the hex digits of their bits.
"""

import json
import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple, Self

from adapters_store.canonical import canonical_json, fp32_hex, round_to_fp32, sha256_of
from adapters_store.errors import InvalidMerge, InvalidName
from adapters_store.merging.parameters import Value
from adapters_store.merging.table import (
    METHODS,
    Method,
    check_members,
    find_method,
    resolve_parameters,
)
from adapters_store.names import check_digest

FORMAT = "intarsia-recipe/1"
MAX_MEMBERS = 64
MAX_SEED = 2**64 - 1
KEYS = frozenset({"format", "members", "method", "parameters", "seed"})


class Member(NamedTuple):
    """One adapter of a merge and its weight, an fp32 value."""

    digest: str
    weight: float


@dataclass(frozen=True)
class Recipe:
    """Made by `build` or `parse`, which check it and bring it into its one form.

    Members stand in the order in which the method takes them: by digest where it does not matter.
    """

    method: str
    parameters: Mapping[str, Value]
    members: tuple[Member, ...]
    seed: int | None = None  # None where the method draws nothing

    @classmethod
    def build(
        cls,
        method: str,
        parameters: Mapping[str, object],
        members: Iterable[tuple[str, float]],
        seed: int | None = None,
    ) -> Self:
        """The recipe of these (digest, weight) pairs; defaults are filled in.

        InvalidMerge names the field at fault: `method`, `members`, `members.0.weight`, `seed`, or
        a parameter.
        """
        if not isinstance(method, str):  # JSON may hold anything
            raise InvalidMerge("method", method, "must be the name of a method")
        row = find_method(method)
        resolved = {name: _plain(v) for name, v in resolve_parameters(method, parameters).items()}
        given = [_member(index, *pair) for index, pair in enumerate(members)]
        if not 1 <= len(given) <= MAX_MEMBERS:
            raise InvalidMerge("members", len(given), f"must be 1 to {MAX_MEMBERS}")
        check_members(method, resolved, len(given))
        ordered, resolved = _ordered(row, given, resolved)
        return cls(method, resolved, ordered, _seed(row, seed))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The recipe that `json` wrote; InvalidMerge for any other text, naming the field."""
        value = _object(text)
        members = [_read_member(index, pair) for index, pair in enumerate(value["members"])]
        return cls.build(value["method"], value["parameters"], members, value.get("seed"))

    @cached_property
    def _value(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "format": FORMAT,
            "method": self.method,
            "parameters": {name: _listed(value) for name, value in self.parameters.items()},
            "members": [[member.digest, fp32_hex(member.weight)] for member in self.members],
        }
        return value if self.seed is None else {**value, "seed": self.seed}

    def json(self) -> str:
        """The recipe's one text."""
        return canonical_json(self._value).decode()

    @cached_property
    def digest(self) -> str:
        return sha256_of(self._value)

    @property
    def row(self) -> Method:
        """What the table says of the method."""
        return METHODS[self.method]

    @property
    def digests(self) -> tuple[str, ...]:
        """The members' digests, each once, in the order of the members."""
        return tuple(dict.fromkeys(member.digest for member in self.members))


def _member(index: int, digest: str, weight: float) -> Member:
    return Member(digest, _fp32(f"members.{index}.weight", weight))


def _fp32(field: str, value: float) -> float:
    """`value` as an fp32 number, and -0.0 as 0.0; InvalidMerge if there is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        rounded = round_to_fp32(float(value)) if is_number else math.nan
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise InvalidMerge(field, value, "is not a finite fp32 number")
    return rounded + 0.0


def _ordered(
    row: Method, members: list[Member], parameters: dict[str, Value]
) -> tuple[tuple[Member, ...], dict[str, Value]]:
    """The members in their canonical order; parameters with a number for each go with them."""
    if row.folds:
        return _folded(members), parameters
    if not row.sorts:
        return tuple(members), parameters
    lists = {name: value for name, value in parameters.items() if isinstance(value, tuple)}
    # Equal members are told apart by their numbers, so that no order of the caller is left over.
    own = zip(*lists.values(), strict=True) if lists else repeat(())
    keyed = sorted(zip(members, own))  # noqa: B905 - repeat has no end
    columns = zip(*(numbers for _, numbers in keyed), strict=True)
    sorted_lists = dict(zip(lists, columns, strict=True))
    return tuple(member for member, _ in keyed), {**parameters, **sorted_lists}


def _folded(members: list[Member]) -> tuple[Member, ...]:
    """Equal adapters as one with the sum of their weights, in fp64, rounded once."""
    weights: dict[str, list[float]] = defaultdict(list)
    for member in members:
        weights[member.digest].append(member.weight)
    totals = {digest: math.fsum(some) for digest, some in sorted(weights.items())}
    return tuple(Member(digest, _fp32("members", total)) for digest, total in totals.items())


def _seed(row: Method, seed: int | None) -> int | None:
    if not row.takes_seed:
        if seed is not None:
            raise InvalidMerge("seed", seed, f"{row.name} draws nothing, so it takes no seed")
        return None
    if seed is None:
        return 0
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise InvalidMerge("seed", seed, f"must be an integer from 0 to {MAX_SEED}")
    return seed


def _plain(value: Value) -> Value:
    """-0.0 as 0.0."""
    return value + 0.0 if isinstance(value, float) else value


def _listed(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidMerge("recipe", text[:80], f"is not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InvalidMerge("recipe", text[:80], f"is not an object with the format {FORMAT!r}")
    unknown = sorted(value.keys() - KEYS)
    if unknown:
        raise InvalidMerge(f"recipe.{unknown[0]}", value[unknown[0]], "is no field of a recipe")
    for field, kind in (("method", str), ("parameters", dict), ("members", list)):
        if not isinstance(value.get(field), kind):
            raise InvalidMerge(f"recipe.{field}", value.get(field), f"must be a {kind.__name__}")
    return value


def _read_member(index: int, pair: object) -> tuple[str, float]:
    field = f"recipe.members.{index}"
    match pair:
        case [str(digest), str(bits)]:
            return _read_digest(field, digest), _read_fp32(field, bits)
    raise InvalidMerge(field, pair, "must be a digest and the 8 hex digits of an fp32 weight")


def _read_digest(field: str, text: str) -> str:
    try:
        check_digest(text)
    except InvalidName as error:
        raise InvalidMerge(field, text, f"is not of the form {error.expected}") from error
    return text


def _read_fp32(field: str, bits: str) -> float:
    if len(bits) != 8 or set(bits) - set("0123456789abcdef"):
        raise InvalidMerge(field, bits, "must be the 8 hex digits of an fp32 weight")
    weight: float = struct.unpack(">f", bytes.fromhex(bits))[0]
    return weight

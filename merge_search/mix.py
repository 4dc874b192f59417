"""A mix of adapters as requests write it, and what it is called. Knows no space and no score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from adapters_store.canonical import canonical_json

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mix:
    """Adapters and their weights, and how they become one; without members it is the base."""

    members: tuple[tuple[str, float], ...]
    merge: Mapping[str, Any] = field(default_factory=dict)  # method, parameters, seed; {} of one

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Self:
        """What `request` wrote."""
        members = tuple((each["id"], each["weight"]) for each in request.get("adapters", ()))
        return cls(members, request.get("merge", {}))

    def request(self) -> Json:
        """The fields that ask for it, in any request that generates; none for the base."""
        adapters = [{"id": name, "weight": weight} for name, weight in self.members]
        fields: Json = {"adapters": adapters} if adapters else {}
        return {**fields, "merge": dict(self.merge)} if self.merge else fields

    @property
    def key(self) -> bytes:
        """Equal for mixes that are asked for alike."""
        return canonical_json(self.request())

    @property
    def call(self) -> str:
        """It on one line."""
        if not self.members:
            return "base"
        terms = [name if weight == 1 else f"{weight:g}*{name}" for name, weight in self.members]
        if not self.merge:
            return terms[0]
        told = [f"{name}={_short(v)}" for name, v in self.merge.items() if name != "method"]
        return f"{self.merge['method']}({', '.join(terms + told)})"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)

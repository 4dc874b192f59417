"""A subject of an evaluation, pinned: what it is by digests, so that no name is asked again.

Goes into the job's request and comes back after a restart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters_store.merging.recipe import Recipe
from server.adapters.composition import ArrowRouter, Composition, Member
from server.adapters.merged import MergedAdapter, MergedAdapters
from server.adapters.sources import PrototypesOf, Source, StoredAdapter

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated. `id` and `digest` are of the adapter version that it is, if it is one."""

    name: str  # in results; no two of an evaluation have the same
    asked: Any  # as the request wrote it
    id: str | None
    digest: str | None
    composition: Composition
    sources: tuple[Json, ...]  # what must be resident, by digests
    merge: str | None = None  # how members became one change

    def to_json(self) -> dict[str, Any]:
        router = self.composition.router
        return {
            "name": self.name,
            "asked": self.asked,
            "id": self.id,
            "digest": self.digest,
            "composition": {
                "digest": self.composition.digest,
                "members": [list(member) for member in self.composition.members],
                "router": router and {"temperature": router.temperature, "top_k": router.top_k},
            },
            "sources": list(self.sources),
            "merge": self.merge,
        }

    @classmethod
    def from_json(cls, told: Json) -> "Subject":
        composition = told["composition"]
        members = tuple(Member(digest, number) for digest, number in composition["members"])
        router = composition["router"] and ArrowRouter(**composition["router"])
        plain = {name: told[name] for name in ("name", "asked", "id", "digest", "merge")}
        sources = tuple(told["sources"])
        return cls(**plain, composition=Composition(members, router or None), sources=sources)


def pinned_sources(sources: Sequence[Source]) -> tuple[Json, ...]:
    """`sources` by what they are made of."""
    return tuple(map(_pinned, sources))


def _pinned(source: Source) -> Json:
    match source:
        case StoredAdapter(digest=digest):
            return {"adapter": digest}
        case MergedAdapter(recipe=recipe, through=through):
            return {"recipe": recipe.json(), "through": through}
        case PrototypesOf(adapter=adapter):
            return {"prototypes": _pinned(adapter)}
    raise AssertionError(f"a source of an unknown kind: {source}")


class SourcesOf:
    """Makes sources of what was pinned."""

    def __init__(
        self,
        stored: Callable[[str], Source],
        prototypes: Callable[[Source], Source],
        merged: MergedAdapters,
    ) -> None:
        self._stored, self._prototypes, self._merged = stored, prototypes, merged

    def __call__(self, subject: Subject) -> tuple[Source, ...]:
        return tuple(map(self._source, subject.sources))

    def _source(self, told: Json) -> Source:
        if "adapter" in told:
            return self._stored(told["adapter"])
        if "prototypes" in told:
            return self._prototypes(self._source(told["prototypes"]))
        return self._merged.source(Recipe.parse(told["recipe"]), told["through"])

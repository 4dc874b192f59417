"""What the registry answers, as values. Knows nothing of SQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from adapters_store.adapter import SparseAdapter

Targets = Mapping[int, float]  # version -> its share; shares add up to 1


@dataclass(frozen=True, kw_only=True)
class AdapterDraft:
    """What is known of an adapter before it has a version."""

    name: str
    digest: str
    base_name: str
    kinds: tuple[str, ...]
    num_layers: int
    nnz: int
    num_bytes: int  # of the file
    metadata: Mapping[str, Any]

    @classmethod
    def of(
        cls, adapter: SparseAdapter, name: str, metadata: Mapping[str, Any], num_bytes: int
    ) -> "AdapterDraft":
        """`adapter` as it would be published: its notes, and `metadata` over them."""
        return AdapterDraft(
            name=name,
            digest=adapter.digest,
            base_name=adapter.base_name,
            kinds=adapter.kinds,
            num_layers=len(adapter.layers),
            nnz=adapter.nnz,
            num_bytes=num_bytes,
            metadata={**adapter.notes, **metadata},
        )


@dataclass(frozen=True, kw_only=True)
class AdapterRecord(AdapterDraft):
    """One published version."""

    version: int
    created: float  # seconds since 1970, UTC

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    def under(self, name: str) -> AdapterDraft:
        """The same content, before it has a version of `name`."""
        known = {each.name: getattr(self, each.name) for each in fields(AdapterDraft)}
        return AdapterDraft(**{**known, "name": name})


class Latest(NamedTuple):
    """The newest version of a name, as far as a list of ten thousand needs it."""

    name: str
    version: int
    digest: str
    created: float  # seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Publication:
    """The version that holds what was published, and whether it is new."""

    record: AdapterRecord
    created: bool


@dataclass(frozen=True, slots=True)
class NameState:
    """A name as it stands: its versions, oldest first, its aliases, whether it is pinned."""

    name: str
    pinned: bool
    versions: tuple[AdapterRecord, ...]
    aliases: Mapping[str, Targets]

    @property
    def standing(self) -> frozenset[str]:
        """Digests that the name stands for without a number: the latest, and those of aliases."""
        numbers = {number for targets in self.aliases.values() for number in targets}
        latest = self.versions[-1].version
        return frozenset(v.digest for v in self.versions if v.version in numbers | {latest})


@dataclass(frozen=True, slots=True)
class Change:
    """What to change of a name, all at once; what is None or absent stays as it is.

    `aliases` gives each alias its versions and their weights, or None to remove it. `metadata`
    gives each field its value, or None to remove it.
    """

    aliases: Mapping[str, Mapping[int, float] | None] = field(default_factory=dict)
    pinned: bool | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

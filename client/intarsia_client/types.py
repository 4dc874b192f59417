"""Adapters and models as the server answers them, as frozen values. Knows JSON, nothing of HTTP.

Every value keeps the JSON it was read from in `raw`, so that fields which are newer than this
client are within reach. Reading raises KeyError, TypeError or ValueError on any other shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AdapterWeight:
    """One member of a composition: an adapter reference and its weight."""

    id: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Base of everything that is read from JSON."""

    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEffect(Answer):
    """What an adapter does to some rows of a layer, `q_proj` of `qkv_proj`; see LayerEffect."""

    name: str
    nnz: int
    density: float
    norm: float
    changed: Mapping[str, float] | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("name", "nnz", "density", "norm")
        return cls(**{name: raw[name] for name in names}, changed=raw.get("changed"), raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEffect(Answer):
    """What an adapter does to one layer: entries named, their share of it, the delta's norm.

    `changed` is, by dtype of a base, the share of those entries that rounding leaves changed.
    """

    layer: str
    kind: str
    nnz: int
    density: float
    norm: float
    changed: Mapping[str, float] | None
    parts: tuple[PartEffect, ...]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("layer", "kind", "nnz", "density", "norm")
        parts = tuple(map(PartEffect.from_json, raw.get("parts") or ()))
        values = {name: raw[name] for name in names}
        return cls(**values, changed=raw.get("changed"), parts=parts, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEffect(Answer):
    """What an adapter does to the base, in all and by layer."""

    layers: tuple[LayerEffect, ...]
    nnz: int
    density: float
    norm: float

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        return cls(
            layers=tuple(map(LayerEffect.from_json, raw["layers"])),
            **{name: raw[name] for name in ("nnz", "density", "norm")},
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Answer):
    """One version of an adapter as the registry has it.

    `bytes` is its size on disk, `created` is in Unix seconds, and `effect` comes with uploads only.
    After a dry run it is the version that an upload would have made.
    """

    id: str
    name: str
    version: int
    digest: str
    base: str
    kinds: tuple[str, ...]
    layers: int
    nnz: int
    bytes: int
    created: float
    metadata: Json
    effect: AdapterEffect | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("id", "name", "version", "digest", "base", "layers", "nnz", "bytes", "created")
        return cls(
            **{name: raw[name] for name in names},
            kinds=tuple(raw["kinds"]),
            metadata=raw.get("metadata") or {},
            effect=AdapterEffect.from_json(raw["effect"]) if raw.get("effect") else None,
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterName(Answer):
    """A name as it stands. An alias is a version, or versions with shares that add up to 1."""

    name: str
    pinned: bool
    versions: tuple[Adapter, ...]
    aliases: Mapping[str, int | Mapping[int, float]]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        versions = tuple(map(Adapter.from_json, raw["versions"]))
        aliases = {alias: _target(target) for alias, target in raw["aliases"].items()}
        name, pinned = raw["name"], raw["pinned"]
        return cls(name=name, pinned=pinned, versions=versions, aliases=aliases, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPage(Answer):
    """Part of the list of adapters; `next_cursor` asks for what follows, None at the end."""

    data: tuple[Adapter, ...]
    next_cursor: str | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        data = tuple(map(Adapter.from_json, raw["data"]))
        return cls(data=data, next_cursor=raw["next_cursor"], raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Answer):
    """Versions that are gone, and the bytes that came free by place (`disk`, `host`, `device`).

    In the state "draining" running requests still use some; the rest comes free with their end.
    """

    deleted: tuple[str, ...]
    state: str
    bytes_freed: Mapping[str, int]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        return cls(
            deleted=tuple(raw["deleted"]),
            state=raw["state"],
            bytes_freed=raw["bytes_freed"],
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Answer):
    """A name that `model` may hold: the base (`parent` is None) or an adapter of it."""

    id: str
    root: str | None
    parent: str | None
    max_model_len: int | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        optional = {name: raw.get(name) for name in ("root", "parent", "max_model_len")}
        return cls(id=raw["id"], **optional, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVersion(Answer):
    """The version of the server that answers."""

    version: str

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        return cls(version=raw["version"], raw=raw)


def _target(raw: int | Json) -> int | Mapping[int, float]:
    if isinstance(raw, int):
        return raw
    return {int(version): share for version, share in raw.items()}

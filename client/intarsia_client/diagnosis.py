"""What a server says of a merge before it is made, and the call that asks for it. See `types`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self, TypedDict

import httpx

from intarsia_client.types import AdapterWeight, Answer, Json
from intarsia_client.wire import Call


class Bounds(TypedDict, total=False):
    """Bounds by measure, such as `{"sign_conflict": 0.3}`; `layers=False` asks for sums only."""

    warn_if: Mapping[str, float]
    refuse_if: Mapping[str, float]
    layers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Answer):
    """A bound that is broken; `members` are positions of the adapter or the pair that is worst."""

    level: str
    measure: str
    value: float | None
    bound: float
    members: tuple[int, ...]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("level", "measure", "value", "bound")
        members = tuple(raw["members"])
        return cls(**{name: raw[name] for name in names}, members=members, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap(Answer):
    """How adapters meet in some rows: of a layer, of its q, k or v part, or of all of them.

    `coverage` is the share of places that any adapter changes, `mean_overlap` how many change such
    a place, `sign_conflict` the share of those that several change in both directions. `members`
    and `pairs` hold the numbers of single adapters and of pairs, by position.
    """

    name: str
    coverage: float | None
    mean_overlap: float | None
    sign_conflict: float | None
    members: tuple[Json, ...]
    pairs: tuple[Json, ...]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("coverage", "mean_overlap", "sign_conflict")
        return cls(
            name=raw.get("layer") or raw.get("name") or "",
            **{name: raw[name] for name in names},
            members=tuple(raw["members"]),
            pairs=tuple(raw["pairs"]),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Answer):
    """What a merge of `members` (their ids) would do; `bytes` is the size it would have.

    `verdict` is ok, warn or refuse, by the bounds that were asked about.
    """

    verdict: str
    findings: tuple[Finding, ...]
    members: tuple[str, ...]
    bytes: int
    pooled: Overlap
    parts: tuple[Overlap, ...]
    layers: tuple[Overlap, ...]

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        return cls(
            verdict=raw["verdict"],
            findings=tuple(map(Finding.from_json, raw["findings"])),
            members=tuple(member["id"] for member in raw["members"]),
            bytes=raw["bytes"],
            pooled=Overlap.from_json(raw["pooled"]),
            parts=tuple(map(Overlap.from_json, raw["parts"])),
            layers=tuple(map(Overlap.from_json, raw.get("layers") or ())),
            raw=raw,
        )


def diagnose(adapters: Sequence[AdapterWeight], bounds: Bounds) -> Call[Diagnosis]:
    body = {**bounds, "adapters": [asdict(adapter) for adapter in adapters]}
    return Call("POST", "/v1/merges/diagnose", _diagnosis, {"json": body})


def _diagnosis(response: httpx.Response) -> Diagnosis:
    return Diagnosis.from_json(response.json())

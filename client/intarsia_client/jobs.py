"""Jobs and merge methods as the server answers them, as frozen values. See `types`."""

from dataclasses import dataclass
from typing import Any, Self

from intarsia_client.types import Answer, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Answer):
    """Long work as it stands: `status` is queued, running, succeeded, failed or cancelled.

    `progress` goes from 0 to 1; `result` is there when it succeeded, `error` when it failed. Times
    are in Unix seconds.
    """

    id: str
    kind: str
    status: str
    progress: float
    result: Json | None
    error: Json | None
    created: float
    updated: float

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("id", "kind", "status", "progress", "result", "error", "created", "updated")
        return cls(**{name: raw[name] for name in names}, raw=raw)

    @property
    def has_ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeParameter(Answer):
    """What a merge method may be told; `default` is None for what must be given."""

    name: str
    kind: str
    default: Any
    range: str
    meaning: str

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("name", "kind", "default", "range", "meaning")
        return cls(**{name: raw[name] for name in names}, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeMethod(Answer):
    """One way to merge. `exactness` is "bits", or a tolerance relative to the largest value."""

    name: str
    summary: str
    paper: str
    parameters: tuple[MergeParameter, ...]
    min_adapters: int
    max_adapters: int
    takes_seed: bool
    exactness: str | float

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        names = ("name", "summary", "paper", "min_adapters", "max_adapters")
        rest = ("takes_seed", "exactness")
        return cls(
            **{name: raw[name] for name in (*names, *rest)},
            parameters=tuple(map(MergeParameter.from_json, raw["parameters"])),
            raw=raw,
        )

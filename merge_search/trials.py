"""Trials: what was tried, why, and what it scored. Values alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from merge_search.mix import Mix
from merge_search.space import Coordinates, Space

Kind = Literal["base", "candidate", "uniform", "start", "search"]
BASE = "base"
AVERAGE = "average"


@dataclass(frozen=True, slots=True)
class Trial:
    """`at` is None for baselines, which need not be points of the space; `score` as it is known."""

    number: int
    kind: Kind
    mix: Mix
    at: Coordinates | None = None
    score: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        at = None if value["at"] is None else Coordinates.from_json(value["at"])
        mix = Mix.from_request(value["mix"])
        return cls(value["number"], value["kind"], mix, at, value.get("score"))

    def to_json(self) -> dict[str, Any]:
        at = None if self.at is None else asdict(self.at)
        return {**asdict(self), "mix": self.mix.request(), "at": at}

    @property
    def name(self) -> str:
        """What evaluations call it."""
        return BASE if self.kind == "base" else f"trial-{self.number}"

    @property
    def is_baseline(self) -> bool:
        """What anyone would try without a search."""
        return self.kind in ("base", "candidate", "uniform")

    def scored(self, score: float | None) -> "Trial":
        return replace(self, score=score)


def first_trials(space: Space, candidates: Sequence[str]) -> list[Trial]:
    """The base, each candidate alone, all of them averaged, and where each method starts.

    So the best of all trials is never worse than these. What is there twice is tried once.
    """
    uniform = Mix(tuple((name, 1.0) for name in candidates), {"method": AVERAGE})
    told: list[tuple[Kind, Mix, Coordinates | None]] = [
        ("base", Mix(()), None),
        *(("candidate", Mix(((name, 1.0),)), None) for name in candidates),
        ("uniform", uniform, None),
        *(("start", space.mix(at), at) for at in space.starts()),
    ]
    first: dict[bytes, tuple[Kind, Mix, Coordinates | None]] = {}
    for each in told:
        kind, mix, at = first.get(each[1].key, each)
        first[mix.key] = (kind, mix, at or each[2])
    return [Trial(number, *each) for number, each in enumerate(first.values())]


def best_of(trials: Iterable[Trial], *, higher_is_better: bool) -> Trial | None:
    """The best mix of adapters that was scored; of equals the first, so the simplest."""
    return next(iter(ranked(trials, higher_is_better=higher_is_better)), None)


def ranked(trials: Iterable[Trial], *, higher_is_better: bool) -> list[Trial]:
    """Scored mixes of adapters, the best first; the base is not among them."""
    sign = -1 if higher_is_better else 1
    scored = [
        (sign * t.score, t.number, t) for t in trials if t.score is not None and t.mix.members
    ]
    return [trial for *_, trial in sorted(scored, key=lambda each: each[:2])]

"""What is measured: each scenario a workload, what one looks at in it, and the adapters it needs.

Default lists and curves as data. Knows nothing of sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from loadtests.bench.fleet import Fleet
from loadtests.workload import Length, Workload

Measure = Literal["tokens_per_s", "prompt_tokens_per_s", "latency"]
SEATS = 32  # sequences at once that sides are started for, unless a scenario needs more
CAPACITY = "capacity"  # the scenario whose rate of requests sets the open loop's
LOAD = 0.7  # of the best rival's capacity
WAVES = 2  # requests of a closed loop, as multiples of those at once
MIXED_PROMPT = Length(128, sigma=0.8, least=16, most=512)
ANSWER = Length(128)
MIXED_ANSWER = Length(64, sigma=0.6, least=16, most=128)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table; `x` is its place on its curve."""

    name: str
    workload: Workload
    measure: Measure = "tokens_per_s"
    fleet: Fleet | None = None
    x: float | None = None

    @property
    def at_once(self) -> int:
        """Most requests in a closed loop; an open one gets the usual seats."""
        return self.workload.at_once or SEATS

    @property
    def seats(self) -> int:
        return max(SEATS, self.at_once)

    @property
    def context(self) -> int:
        """Tokens of its longest sequence."""
        return self.workload.prompt.longest + self.workload.answer.longest

    @property
    def in_fixed_batches(self) -> bool:
        """Whether waves of equal requests without adapters are all there is to it."""
        load = self.workload
        equal = not load.prompt.sigma and not load.answer.sigma
        return equal and self.fleet is None and load.at_once is not None

    def quick(self) -> "Scenario":
        """The same to try out: at most 16 tokens an answer, and one wave of requests."""
        load = self.workload
        answer = replace(load.answer, median=min(16, load.answer.median), most=16)
        load = replace(load, answer=replace(answer, least=min(answer.least, 16)))
        return replace(self, workload=replace(load, requests=max(4, load.at_once or 16)))

    def on_curve(self, curve: str, x: float) -> "Scenario":
        return replace(self, name=f"{curve} {x:g}", x=x)

    def at_rate(self, per_s: float) -> "Scenario":
        """As an open loop of that many requests a second."""
        return replace(self, workload=replace(self.workload, at_once=None, per_s=per_s))


def _closed(at_once: int, prompt: Length, answer: Length, adapters: int = 0) -> Workload:
    return Workload(max(4, WAVES * at_once), prompt, answer, at_once, adapters=adapters)


def _decode(name: str, prompt: int, at_once: int, fleet: Fleet | None = None) -> Scenario:
    adapters = fleet.count if fleet else 0
    return Scenario(name, _closed(at_once, Length(prompt), ANSWER, adapters), fleet=fleet)


def default() -> list[Scenario]:
    """Section by section of the table: decode, prefill, latency, adapters."""
    many = Fleet(64)
    mixed = _closed(32, MIXED_PROMPT, MIXED_ANSWER)
    popular = replace(mixed, adapters=many.count, zipf=1.0)
    return [
        *(_decode(f"decode 128+128, {n} at once", 128, n) for n in (1, 8, 32)),
        *(_decode(f"decode 512+128, {n} at once", 512, n) for n in (1, 8, 32)),
        Scenario("prefill 512", _closed(4, Length(512), Length(1)), "prompt_tokens_per_s"),
        Scenario(CAPACITY, mixed),
        Scenario("latency at 70 %", replace(mixed, requests=96), "latency"),
        _decode("32 adapters, 32 at once", 128, 32, Fleet(32)),
        Scenario("64 adapters, Zipf 1.0, 32 at once", popular, fleet=many),
    ]


def _batch() -> list[Scenario]:
    return [_decode("", 128, n).on_curve("batch", n) for n in (1, 2, 4, 8, 16, 32, 64)]


def _adapters() -> list[Scenario]:
    """32 at once; of 64 adapters each serves one request of the two waves."""
    counts = (0, 1, 2, 4, 8, 16, 32, 64)
    fleets = [(n, Fleet(n) if n else None) for n in counts]
    return [_decode("", 128, 32, fleet).on_curve("adapters", n) for n, fleet in fleets]


def _keep_ratio() -> list[Scenario]:
    ratios = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
    return [_decode("", 128, 32, Fleet(32, r)).on_curve("keep-ratio", r) for r in ratios]


def _context() -> list[Scenario]:
    """Prompts grow; 8 at once, whose caches fit everywhere."""
    return [_decode("", n, 8).on_curve("context", n) for n in (64, 256, 1024, 2048, 4096)]


def curves() -> Mapping[str, Sequence[Scenario]]:
    return {
        "batch": _batch(),
        "adapters": _adapters(),
        "keep-ratio": _keep_ratio(),
        "context": _context(),
    }

"""What is asked of a server: seeded arrivals, lengths, popularity of adapters, prompts.

Pure arithmetic: knows neither HTTP nor any server. Each property has a random source of its own, so
that a workload which differs in one of them is the same in all others.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

TOKEN_IDS = range(1000, 40000)  # ordinary words of the demo base's vocabulary


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of a prompt or an answer: `median`, or log-normal around it, within bounds."""

    median: int
    sigma: float = 0.0  # of the logarithm
    least: int = 1
    most: int = 1 << 20

    def draw(self, source: random.Random) -> int:
        """The same number of draws for every length, so that lengths do not shift each other."""
        factor = source.lognormvariate(0.0, self.sigma)
        return min(max(round(self.median * factor), self.least), self.most)

    @property
    def longest(self) -> int:
        return self.most if self.sigma else min(max(self.median, self.least), self.most)


@dataclass(frozen=True, slots=True)
class Workload:
    """`requests` requests: `at_once` at a time, or as a Poisson process of `per_s` a second.

    Request i asks for adapter i modulo `adapters`; with `zipf` set, for adapter k with probability
    proportional to 1 / (k + 1) ** zipf; for the base where there are no adapters.
    """

    requests: int
    prompt: Length
    answer: Length
    at_once: int | None = None
    per_s: float | None = None
    adapters: int = 0
    zipf: float | None = None

    def __post_init__(self) -> None:
        assert (self.at_once is None) != (self.per_s is None), "one kind of arrivals"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    prompt: Sequence[int]  # token ids: every side gets precisely as many
    answer_tokens: int
    adapter: int | None  # None: the base
    at_s: float  # after the start; of a closed loop 0: as soon as a seat is free


def asks(workload: Workload, seed: int | str) -> list[Ask]:
    """The requests in order of arrival; the same for the same seed."""
    prompts, answers = _source(seed, "prompt lengths"), _source(seed, "answer lengths")
    tokens = _source(seed, "tokens")
    return [
        Ask(
            tokens.choices(TOKEN_IDS, k=workload.prompt.draw(prompts)),
            workload.answer.draw(answers),
            adapter,
            at_s,
        )
        for adapter, at_s in zip(_adapters(workload, seed), _arrivals(workload, seed), strict=True)
    ]


def _source(seed: int | str, purpose: str) -> random.Random:
    return random.Random(f"{seed} {purpose}")


def _arrivals(workload: Workload, seed: int | str) -> list[float]:
    if workload.per_s is None:
        return [0.0] * workload.requests
    source = _source(seed, "arrivals")
    gaps = (source.expovariate(workload.per_s) for _ in range(workload.requests))
    return list(accumulate(gaps))


def _adapters(workload: Workload, seed: int | str) -> Iterator[int | None]:
    if not workload.adapters:
        return iter([None] * workload.requests)
    numbers = range(workload.adapters)
    if workload.zipf is None:
        return (index % workload.adapters for index in range(workload.requests))
    weights = [1 / (number + 1) ** workload.zipf for number in numbers]
    return iter(_source(seed, "adapters").choices(numbers, weights, k=workload.requests))

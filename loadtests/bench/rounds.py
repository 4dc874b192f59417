"""The order of a benchmark: round after round, side after side, one server up at a time.

A side is started once a round for all scenarios that can share a start. Rounds alternate between
sides, so that a machine that slows down slows all of them.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median

import httpx

from loadtests.bench.fleet import Fleet
from loadtests.bench.log import Absent, Log, Round
from loadtests.bench.scenarios import CAPACITY, LOAD, Scenario
from loadtests.bench.sides import Order, Side
from loadtests.bench.summary import Summary, summarize
from loadtests.bodies import body, model_name
from loadtests.generator.plan import Plan, Planned
from loadtests.rivals.environments import RIVALS, CannotInstall
from loadtests.servers import ServerDidNotStart, free_port, running
from loadtests.workload import Length, Workload, asks

WARM_UP = Workload(8, Length(64), Length(8), at_once=4)
SPARE = 16  # tokens of context that nobody asks for
GENERATOR = (sys.executable, "-m", "loadtests.generator")
Say = Callable[[str], None]


class NoCapacity(Exception):
    """The open loop's rate hangs on the best rival's capacity, and the log has none."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is to be measured, where it is written, and who is told."""

    sides: Sequence[Side]
    scenarios: Sequence[Scenario]
    rounds: int
    base: Path
    log: Log
    say: Say

    def run(self) -> None:
        """All rounds that the log does not have; latencies last, since they hang on capacities."""
        for latency in (False, True):
            scenarios = [each for each in self.scenarios if (each.measure == "latency") == latency]
            for number in range(self.rounds):
                for side in self.sides:
                    self._side(side, scenarios, number)

    def _side(self, side: Side, scenarios: Iterable[Scenario], number: int) -> None:
        missing = [
            each
            for each in scenarios
            if side.takes(each) and not self.log.done(side.name, each.name, number)
        ]
        for start in starts(missing):
            self.say(f"round {number + 1}, {side.name}: {', '.join(each.name for each in start)}")
            try:
                self._start(side, start, number)
            except (CannotInstall, ServerDidNotStart, httpx.HTTPStatusError) as error:
                self._absent(side, start, str(error))

    def _absent(self, side: Side, scenarios: Iterable[Scenario], reason: str) -> None:
        self.say(f"{side.name} is absent: {reason}")
        for each in scenarios:
            self.log.add(Absent(side.name, each.name, reason.strip().splitlines()[-1]))

    def _start(self, side: Side, scenarios: Sequence[Scenario], number: int) -> None:
        with started(side, scenarios, self.base) as player:
            version = side.version()
            player.play(warm_up(scenarios[0].fleet), "warm-up")
            for each in scenarios:
                summary = player.play(self._at_rate(each).workload, f"{each.name}, {number}")
                self.log.add(Round(side.name, each.name, number, version, summary))
                self.say(_told(each, summary))

    def _at_rate(self, scenario: Scenario) -> Scenario:
        """Latency is of an open loop at a part of the best rival's capacity."""
        if scenario.measure != "latency":
            return scenario
        rivals = (self.log.of(side.name, CAPACITY) for side in self.sides if not side.ours)
        rates = [median(each.requests_per_s for each in found) for found in rivals if found]
        if not rates:
            raise NoCapacity(f"measure the scenario {CAPACITY!r} of a rival first")
        return scenario.at_rate(LOAD * max(rates))


def starts(scenarios: Iterable[Scenario]) -> list[list[Scenario]]:
    """Scenarios that can share a start: the same adapters, and the same sizes but for the usual."""

    def key(scenario: Scenario) -> tuple[bool, int, float, int]:
        fleet = scenario.fleet or Fleet(0, 0.0)
        return fleet.count > 0, fleet.count, fleet.keep_ratio, scenario.seats

    ordered = sorted(scenarios, key=key)
    return [list(group) for _, group in groupby(ordered, key)]


def warm_up(fleet: Fleet | None) -> Workload:
    """Asks that are not measured: for every adapter once."""
    count = fleet.count if fleet else 0
    return replace(WARM_UP, requests=max(WARM_UP.requests, count), adapters=count)


@dataclass(frozen=True, slots=True)
class Player:
    """What plays plans to a side that is up, in a process of its own."""

    command: Sequence[str]
    url: str
    scratch: Path

    def play(self, workload: Workload, seed: str) -> Summary:
        planned = [
            Planned(ask.at_s, body(ask, model_name(ask.adapter))) for ask in asks(workload, seed)
        ]
        users = min(workload.at_once or len(planned), len(planned))
        plan = self.scratch / "plan.json"
        Plan(self.url, users, planned).write(plan)
        subprocess.run([*self.command, str(plan), "--out", str(self.scratch)], check=True)
        return summarize(json.loads((self.scratch / "answers.json").read_text()))


@contextmanager
def started(side: Side, scenarios: Sequence[Scenario], base: Path) -> Iterator[Player]:
    """The side is up within; CannotInstall, ServerDidNotStart."""
    if side.environment is not None:
        side.environment.make()
    with tempfile.TemporaryDirectory() as directory:
        order = _order(scenarios, base, Path(directory))
        command = side.command(order)
        if side.in_process:
            try:
                yield Player(command, "", order.scratch)
            except subprocess.CalledProcessError as error:
                raise ServerDidNotStart(error.cmd, f"ended with {error.returncode}") from error
            return
        log = order.scratch / "server.log"
        with running(command, order.port, log, side.ready, side.variables) as url:
            side.prepare(url, order)
            yield Player(GENERATOR, url, order.scratch)


def _order(scenarios: Sequence[Scenario], base: Path, scratch: Path) -> Order:
    return Order(
        base=base,
        scratch=scratch,
        kept=RIVALS / "weights",
        port=free_port(),
        seats=max(each.seats for each in scenarios),
        context=max(each.context for each in scenarios) + SPARE,
        fleet=scenarios[0].fleet,
    )


def _told(scenario: Scenario, found: Summary) -> str:
    return (
        f"  {scenario.name}: {found.tokens_per_s:.1f} tok/s, first token "
        f"{found.first_token_p50_ms:.0f} ms, {found.failed} of {found.requests} failed"
    )

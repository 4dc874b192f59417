"""From the log to the rows of the table: medians, spread, ratios to the best rival. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from loadtests.bench.log import Log
from loadtests.bench.scenarios import Scenario
from loadtests.bench.sides import Side
from loadtests.bench.summary import Summary


@dataclass(frozen=True, slots=True)
class Row:
    """One side in one scenario. Numbers are medians over rounds."""

    scenario: Scenario
    side: Side
    rounds: Sequence[Summary]  # empty: absent
    absent: str | None
    ratios: Sequence[float] = ()  # of each of the scenario's numbers to the best rival's

    def median(self, field: str) -> float:
        return median(float(getattr(each, field)) for each in self.rounds)

    @property
    def value(self) -> float:
        """What the scenario is about, first of all."""
        return self.median(fields_of(self.scenario)[0])

    @property
    def spread(self) -> tuple[float, float]:
        """Least and most of all rounds."""
        field = fields_of(self.scenario)[0]
        values = [float(getattr(each, field)) for each in self.rounds]
        return min(values), max(values)

    @property
    def failed(self) -> int:
        return sum(each.failed for each in self.rounds)


def fields_of(scenario: Scenario) -> tuple[str, ...]:
    """The numbers that a scenario is about."""
    latency = ("first_token_p95_ms", "gap_p99_ms")
    return latency if scenario.measure == "latency" else (scenario.measure,)


def rows(log: Log, scenarios: Sequence[Scenario], sides: Sequence[Side]) -> list[Row]:
    """A row for every side that takes part in a scenario, measured or absent."""
    return [row for scenario in scenarios for row in _of(log, scenario, sides)]


def _of(log: Log, scenario: Scenario, sides: Sequence[Side]) -> Iterator[Row]:
    found = [Row(scenario, side, log.of(side.name, scenario.name), None) for side in sides]
    measured = [row for row in found if row.rounds]
    for row in found:
        absent = log.absent.get((row.side.name, scenario.name))
        if row.rounds:
            yield replace(
                row, ratios=_ratios(row, [each for each in measured if _rivals(each, row)])
            )
        elif absent is not None:
            yield replace(row, absent=absent.reason)


def _ratios(row: Row, rivals: Sequence[Row]) -> tuple[float, ...]:
    """To the best rival in each number; for latencies less is better."""
    best = min if row.scenario.measure == "latency" else max
    bests = {
        field: best(rival.median(field) for rival in rivals)
        for field in fields_of(row.scenario)
        if rivals
    }
    return tuple(row.median(field) / value for field, value in bests.items() if value)


def _rivals(other: Row, row: Row) -> bool:
    """Over HTTP: of a side in fp32 those in fp32, of one with 8 bits all."""
    comparable = row.side.precision != "fp32" or other.side.precision == "fp32"
    return comparable and not (other.side.ours or other.side.in_process)

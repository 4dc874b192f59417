"""From the log to the rows of the table: medians, spread, ratios to the best rival. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    ratio: float | None  # of the scenario's measure to that of the best rival

    def median(self, field: str) -> float:
        return median(float(getattr(each, field)) for each in self.rounds)

    @property
    def value(self) -> float:
        return self.median(field_of(self.scenario))

    @property
    def spread(self) -> tuple[float, float]:
        """Least and most of all rounds."""
        values = [float(getattr(each, field_of(self.scenario))) for each in self.rounds]
        return min(values), max(values)

    @property
    def failed(self) -> int:
        return sum(each.failed for each in self.rounds)


def field_of(scenario: Scenario) -> str:
    """The number that a scenario is about."""
    return "first_token_p95_ms" if scenario.measure == "latency" else scenario.measure


def rows(log: Log, scenarios: Sequence[Scenario], sides: Sequence[Side]) -> list[Row]:
    """A row for every side that takes part in a scenario, measured or absent."""
    return [row for scenario in scenarios for row in _of(log, scenario, sides)]


def _of(log: Log, scenario: Scenario, sides: Sequence[Side]) -> Iterator[Row]:
    values = {
        side: Row(scenario, side, found, None, None).value
        for side in sides
        if (found := log.of(side.name, scenario.name))
    }
    for side in sides:
        absent = log.absent.get((side.name, scenario.name))
        if side in values:
            best = _best_rival(values, side, scenario)
            ratio = values[side] / best if best else None
            yield Row(scenario, side, log.of(side.name, scenario.name), None, ratio)
        elif absent is not None:
            yield Row(scenario, side, (), absent.reason, None)


def _best_rival(values: dict[Side, float], side: Side, scenario: Scenario) -> float | None:
    """Over HTTP: in fp32 among rivals in fp32; with 8 bits among all."""
    found = [value for rival, value in values.items() if _is_rival(rival, side)]
    if not found:
        return None
    return min(found) if scenario.measure == "latency" else max(found)


def _is_rival(other: Side, side: Side) -> bool:
    comparable = side.precision != "fp32" or other.precision == "fp32"
    return comparable and not (other.ours or other.in_process)

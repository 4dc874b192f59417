"""The order of a benchmark, with sides that start at once and answer as they are told."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import running_server
from tiny_models import make_tiny_checkpoint

from loadtests.bench import rounds
from loadtests.bench.fleet import Fleet, Shape
from loadtests.bench.log import Log
from loadtests.bench.rounds import Bench, NoCapacity, starts
from loadtests.bench.scenarios import CAPACITY, LOAD, Scenario, curves, default
from loadtests.bench.sides import SIDES, Side, upload
from loadtests.bench.summary import Summary
from loadtests.servers import ServerDidNotStart
from loadtests.workload import Length, Workload

CLOSED = Workload(4, Length(8), Length(8), at_once=2)
BASE = Scenario("base", CLOSED)
ADAPTERS = Scenario("adapters", replace(CLOSED, adapters=2), fleet=Fleet(2))
LATENCY = Scenario("latency", CLOSED, "latency")
CAPACITIES = Scenario(CAPACITY, CLOSED)
OURS, VLLM, LLAMA = (
    next(side for side in SIDES if side.name == name)
    for name in ("Intarsia", "vLLM", "llama.cpp F32")
)
SUMMARY = Summary(4, {}, 2.0, 10.0, 20.0, 5.0, 100.0, 200.0, 30.0, 40.0, 0.5)


class Played:
    """Stands in for servers and generator; remembers what happened in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: str = "") -> None:
        self.starts: list[tuple[str, tuple[str, ...]]] = []
        self.loads: list[Workload] = []
        self.seeds: set[str] = set()  # since the last start
        self.up, self._broken = 0, broken
        monkeypatch.setattr(rounds, "started", self._started)
        monkeypatch.setattr(Side, "version", lambda side: "1")

    @contextmanager
    def _started(self, side: Side, scenarios: Sequence[Scenario], base: Path) -> Iterator["Played"]:
        if side.name == self._broken:
            raise ServerDidNotStart(["serve"], "a traceback\nand its reason\n")
        self.starts.append((side.name, tuple(each.name for each in scenarios)))
        assert self.up == 0, "two servers up at once"
        self.up += 1
        self.seeds.clear()
        yield self
        self.up -= 1

    def play(self, workload: Workload, seed: str) -> Summary:
        if seed != "warm-up":
            assert seed not in self.seeds, "prompts that a cache knows"
            self.seeds.add(seed)
            self.loads.append(workload)
        return SUMMARY


def _bench(sides: Sequence[Side], scenarios: Sequence[Scenario], log: Log, num: int = 2) -> Bench:
    return Bench(sides, scenarios, num, Path(), log, lambda text: None)


def test_rounds_alternate_between_sides_and_scenarios_share_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played, log = Played(monkeypatch), Log({})
    other = replace(BASE, name="other")
    _bench([OURS, LLAMA], [BASE, ADAPTERS, other], log).run()
    a_round = [
        ("Intarsia", ("base", "other")),
        ("Intarsia", ("adapters",)),
        ("llama.cpp F32", ("base", "other")),
    ]
    assert played.starts == 2 * a_round
    assert len(log.rounds) == 10


def test_what_the_log_has_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    played, log = Played(monkeypatch), Log({})
    _bench([OURS], [BASE], log, 1).run()
    _bench([OURS], [BASE, ADAPTERS], log, 1).run()
    assert played.starts == [("Intarsia", ("base",)), ("Intarsia", ("adapters",))]


def test_a_side_that_does_not_start_is_absent_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played, log = Played(monkeypatch, broken="vLLM"), Log({})
    _bench([VLLM, OURS], [BASE], log, 1).run()
    assert log.absent["vLLM", "base"].reason == "and its reason"
    assert played.starts == [("Intarsia", ("base",))]


def test_the_open_loop_runs_last_at_a_part_of_the_best_rivals_capacity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played(monkeypatch)
    _bench([OURS, VLLM], [LATENCY, CAPACITIES], Log({}), 1).run()
    assert [scenarios for _, scenarios in played.starts] == [(CAPACITY,)] * 2 + [("latency",)] * 2
    assert [load.per_s for load in played.loads[2:]] == [LOAD * SUMMARY.requests_per_s] * 2


def test_without_a_rivals_capacity_there_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    Played(monkeypatch)
    with pytest.raises(NoCapacity):
        _bench([OURS, VLLM], [LATENCY], Log({}), 1).run()


@pytest.mark.parametrize("scenarios", [default(), *curves().values()])
def test_scenarios_of_one_start_agree_in_adapters_and_seats(scenarios: list[Scenario]) -> None:
    found = starts(scenarios)
    assert sorted(each.name for start in found for each in start) == sorted(
        each.name for each in scenarios
    )
    for start in found:
        assert len({(each.fleet, each.seats) for each in start}) == 1
        assert len({each.workload.adapters for each in start}) == 1


@given(st.floats(0.0001, 0.3), st.integers(8, 2000), st.integers(8, 2000))
def test_an_element_adapter_has_as_many_numbers_as_the_lora_beside_it(
    keep_ratio: float, rows: int, columns: int
) -> None:
    fleet, shape = Fleet(1, keep_ratio), Shape(1, rows, columns)
    of_lora = fleet.rank(shape) * (rows + columns)
    if keep_ratio * rows * columns >= rows + columns:
        assert fleet.entries(shape) == of_lora
    else:
        assert fleet.entries(shape) <= of_lora


@pytest.mark.parametrize("keep_ratio", [0.02, 0.3])
def test_both_kinds_are_taken_by_a_server_and_differ_by_number(
    keep_ratio: float, tmp_path: Path
) -> None:
    base = make_tiny_checkpoint(tmp_path / "tiny")
    shape, fleet = Shape.of(base), Fleet(2, keep_ratio)
    for kind in ("element", "low_rank"):
        with running_server(base) as server:
            upload(server.url, fleet, kind, shape)
            with server.http() as http:
                shown = http.get("/v1/adapters").json()["data"]
        assert [each["kinds"] for each in shown] == [[kind]] * 2
        assert len({each["digest"] for each in shown}) == 2
        if kind == "element":
            assert {each["nnz"] for each in shown} == {shape.layers * fleet.entries(shape)}

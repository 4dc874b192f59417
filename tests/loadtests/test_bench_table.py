"""The benchmark's log, table and plot, from rounds that are written down here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.bench import plot
from loadtests.bench.log import Absent, Log, OtherMachine, Round
from loadtests.bench.publishing import END, NoPlace, begin, publish
from loadtests.bench.rows import rows
from loadtests.bench.scenarios import Scenario, curves, default
from loadtests.bench.sides import SIDES
from loadtests.bench.summary import Summary, summarize
from loadtests.bench.table import COLUMNS, cells, markdown
from loadtests.workload import Length, Workload

MACHINE = {"processor": "P", "cores": 2, "flags": ["avx2"], "system": "S", "python": "3.11"}
SUMMARY = Summary(4, {}, 2.0, 10.0, 20.0, 1.0, 100.0, 200.0, 30.0, 40.0, 0.5)
LOAD = Workload(4, Length(8), Length(8), at_once=2)
DECODE = Scenario("decode", LOAD)
LATENCY = Scenario("latency", LOAD, "latency")
OURS, INT8, VLLM, Q8_0 = (
    next(side for side in SIDES if side.name == name)
    for name in ("Intarsia", "Intarsia int8", "vLLM", "llama.cpp Q8_0")
)
ANSWER = {
    "sent_ms": 0.0,
    "first_token_ms": 100.0,
    "total_ms": 500.0,
    "gaps_ms": [200.0, 200.0],
    "prompt_tokens": 8,
    "tokens": 3,
    "error": None,
}


def _log(path: Path | None = None) -> Log:
    """Ours 30, 20, 40; vLLM 10; llama.cpp in 8 bits 25; int8 of ours absent."""
    log = Log.open(path, MACHINE) if path else Log(MACHINE)
    for number, rate in enumerate((30.0, 20.0, 40.0)):
        log.add(Round("Intarsia", "decode", number, "1", replace(SUMMARY, tokens_per_s=rate)))
    log.add(Round("vLLM", "decode", 0, "2", SUMMARY))
    log.add(Round("llama.cpp Q8_0", "decode", 0, "3", replace(SUMMARY, tokens_per_s=25.0)))
    log.add(Absent("Intarsia int8", "decode", "no such | flag"))
    return log


def test_a_row_has_the_median_the_spread_and_the_ratio_to_the_best_rival_of_its_precision() -> None:
    ours, int8, vllm, q8_0 = rows(_log(), [DECODE], [OURS, INT8, VLLM, Q8_0])
    assert (ours.value, ours.spread, ours.ratios) == (30.0, (20.0, 40.0), (3.0,))
    assert (vllm.ratios, q8_0.ratios) == ((1.0,), (1.0,))
    assert (int8.absent, int8.ratios, list(int8.rounds)) == ("no such | flag", (), [])


def test_eight_bits_are_held_against_every_rival() -> None:
    log = _log()
    log.add(Round("Intarsia int8", "decode", 0, "1", replace(SUMMARY, tokens_per_s=50.0)))
    found = rows(log, [DECODE], [INT8, VLLM, Q8_0])
    assert found[0].ratios == (2.0,)


def test_of_latencies_the_best_rival_has_the_least() -> None:
    log = Log(MACHINE)
    for side, first, gap in (
        ("Intarsia", 100.0, 30.0),
        ("vLLM", 200.0, 60.0),
        ("llama.cpp F32", 400.0, 15.0),
    ):
        found = replace(SUMMARY, first_token_p95_ms=first, gap_p99_ms=gap)
        log.add(Round(side, "latency", 0, "1", found))
    ratios = [row.ratios for row in rows(log, [LATENCY], SIDES)]
    assert ratios == [(0.5, 2.0), (1.0, 4.0), (2.0, 1.0)]


def test_what_runs_in_process_is_no_rival_over_http() -> None:
    log = Log(MACHINE)
    for side, rate in (("Intarsia", 30.0), ("vLLM", 10.0), ("llama.cpp F32, in process", 60.0)):
        log.add(Round(side, "decode", 0, "1", replace(SUMMARY, tokens_per_s=rate)))
    assert [row.ratios for row in rows(log, [DECODE], SIDES)] == [(3.0,), (1.0,), (6.0,)]


def test_a_side_that_takes_no_part_has_no_row() -> None:
    assert rows(_log(), [LATENCY], SIDES) == []


def test_the_table_names_absent_sides_failures_machine_and_versions() -> None:
    log = _log()
    log.add(Round("vLLM", "decode", 1, "2", replace(SUMMARY, failures={"HTTP 500": 3})))
    text = markdown(rows(log, [DECODE], SIDES), log)
    assert "P, 2 cores, S, Python 3.11; vector instructions: avx2." in text
    assert "Intarsia 1, vLLM 2, llama.cpp Q8_0 3" in text
    assert "absent: no such \\| flag" in text
    [vllm] = [line for line in text.splitlines() if line.startswith("| decode | vLLM")]
    expected = "10.0 tok/s (10.0 to 10.0) | 1.00 | 100 / 200 | 30.0 / 40.0 | 3 | 0.50 |"
    assert vllm.endswith(expected)


def test_every_row_has_every_column() -> None:
    assert {len(cells(row)) for row in rows(_log(), [DECODE], SIDES)} == {len(COLUMNS)}


def test_the_plot_draws_every_scenario(tmp_path: Path) -> None:
    plot.write(rows(_log(), [DECODE], SIDES), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize("curve", curves())
def test_the_plot_of_a_curve_has_a_line_for_every_side(curve: str, tmp_path: Path) -> None:
    log, scenarios = Log(MACHINE), curves()[curve]
    for scenario in scenarios:
        for side in SIDES:
            if side.takes(scenario):
                log.add(Round(side.name, scenario.name, 0, "1", SUMMARY))
    plot.write(rows(log, scenarios, SIDES), tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_a_log_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "some" / "log.jsonl"
    _log(path)
    with path.open("a") as file:
        file.write('{"round": {"side": "vL')
    again = Log.open(path, MACHINE)
    assert rows(again, [DECODE], SIDES) == rows(_log(), [DECODE], SIDES)
    assert again.done("vLLM", "decode", 0)
    assert not again.done("vLLM", "decode", 1)
    again.add(Round("vLLM", "decode", 1, "2", SUMMARY))
    assert Log.open(path, MACHINE).done("vLLM", "decode", 1)


def test_a_round_in_the_end_takes_the_absence_away(tmp_path: Path) -> None:
    log = _log()
    log.add(Round("Intarsia int8", "decode", 0, "1", SUMMARY))
    assert log.absent == {}


def test_a_log_of_another_machine_is_refused(tmp_path: Path) -> None:
    _log(tmp_path / "log.jsonl")
    with pytest.raises(OtherMachine):
        Log.open(tmp_path / "log.jsonl", {**MACHINE, "cores": 64})


def test_a_summary_counts_whole_answers_alone() -> None:
    failed = {**ANSWER, "first_token_ms": 1.0, "total_ms": 1.0, "gaps_ms": [], "error": "HTTP 500"}
    late = {**ANSWER, "sent_ms": 500.0}
    found = summarize({"cpu_s": 0.003, "answers": [ANSWER, failed, late]})
    assert (found.requests, found.failures, found.seconds) == (3, {"HTTP 500": 1}, 1.0)
    assert (found.tokens_per_s, found.prompt_tokens_per_s, found.requests_per_s) == (6, 16, 2)
    assert (found.first_token_p50_ms, found.gap_p99_ms) == (100.0, 200.0)
    assert found.generator_cpu_s == pytest.approx(0.5)


def test_a_summary_of_failures_alone_has_no_rates() -> None:
    found = summarize({"cpu_s": 1.0, "answers": [{**ANSWER, "error": "cut stream"}]})
    assert (found.tokens_per_s, found.failed) == (0.0, 1)
    assert json.loads(json.dumps(found.failures)) == {"cut stream": 1}


def test_figures_are_published_between_their_marks(tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{begin('table')}\nold\n{END}\nafter\n")
    for name, content in (("table.md", "new\n"), ("table.svg", "<svg/>")):
        (tmp_path / name).write_text(content)
    for _ in range(2):
        publish(document, "table", tmp_path)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("new") == 1
    assert (tmp_path / "doc" / "table.svg").read_text() == "<svg/>"
    with pytest.raises(NoPlace):
        publish(document, "batch", tmp_path)


def test_quick_scenarios_keep_their_prompts_and_shorten_their_answers() -> None:
    for scenario in default():
        quick = scenario.quick()
        assert quick.workload.prompt == scenario.workload.prompt
        assert quick.workload.answer.longest <= 16
        assert quick.workload.requests <= scenario.workload.requests

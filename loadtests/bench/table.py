"""The table of a benchmark, on the terminal and as Markdown, from the same cells."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from loadtests.bench.log import Log
from loadtests.bench.rows import Row

COLUMNS = (
    "scenario",
    "side",
    "measured (spread)",
    "of the best rival",
    "first token p50 / p95, ms",
    "between tokens p50 / p99, ms",
    "failed",
    "generator, CPU s per 1,000 tokens",
)
UNITS = {
    "tokens_per_s": "tok/s",
    "prompt_tokens_per_s": "prompt tok/s",
    "latency": "ms, p95 of first tokens",
}


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    shown = Table(*COLUMNS)
    for row, last in zip(rows, _last_of_scenario(rows), strict=True):
        shown.add_row(*cells(row), end_section=last)
    return shown


def markdown(rows: Sequence[Row], log: Log) -> str:
    """For a document: what it was measured on, the table, versions."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([_machine(log), text, _versions(log)]) + "\n"


def cells(row: Row) -> list[str]:
    """One for each of COLUMNS."""
    named = [row.scenario.name, row.side.name]
    if row.absent is not None:
        return [*named, f"absent: {row.absent}".replace("|", "\\|"), *[""] * (len(COLUMNS) - 3)]
    least, most = row.spread
    return [
        *named,
        f"{row.value:.1f} {UNITS[row.scenario.measure]} ({least:.1f} to {most:.1f})",
        " / ".join(f"{ratio:.2f}" for ratio in row.ratios),
        f"{row.median('first_token_p50_ms'):.0f} / {row.median('first_token_p95_ms'):.0f}",
        f"{row.median('gap_p50_ms'):.1f} / {row.median('gap_p99_ms'):.1f}",
        str(row.failed),
        f"{row.median('generator_cpu_s'):.2f}",
    ]


def _last_of_scenario(rows: Sequence[Row]) -> Iterable[bool]:
    following = [row.scenario.name for row in rows[1:]]
    return [row.scenario.name != name for row, name in zip(rows, [*following, None], strict=True)]


def _machine(log: Log) -> str:
    machine = log.machine
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}; vector instructions: {', '.join(machine['flags'])}."
    )


def _versions(log: Log) -> str:
    told = (f"{side} {version}" for side, version in log.versions().items())
    return f"Versions: {', '.join(told)}."

"""The table of docs/evaluation.md is the table of the code, and so are its numbers."""

import re
from pathlib import Path

from adapters_store.evaluation import gate, metrics, rows
from adapters_store.evaluation.metrics import METRICS, Metric
from adapters_store.evaluation.resampling import Bootstrap

DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"
MARKED = re.compile(r"<!-- table: \S+ -->\n(.*?)<!-- end -->", re.DOTALL)
TEXT = DOCUMENT.read_text(encoding="utf-8")
HEAD = "| metric | computes | needs | unit | better |"


def table() -> str:
    return "\n".join([HEAD, "|---" * 5 + "|", *map(row, METRICS.values()), ""])


def row(metric: Metric) -> str:
    better = "higher" if metric.higher_is_better else "lower"
    columns = [f"`{metric.name}`", metric.summary, metric.needs, metric.scale.unit, better]
    return f"| {' | '.join(columns)} |"


def test_document_shows_the_table() -> None:
    shown = MARKED.search(TEXT)
    assert shown is not None
    assert shown[1] == table(), f"write this between the marks:\n{table()}"


def test_document_explains_every_metric() -> None:
    assert not [name for name in METRICS if f"**{name}**" not in TEXT]


def test_document_has_the_limits_and_defaults_of_the_code() -> None:
    assert f"{rows.MAX_ROWS:,} rows" in TEXT
    assert f"{rows.MAX_ROW_BYTES >> 20} MiB" in TEXT
    assert f"(2 to {rows.MAX_CHOICES}," in TEXT
    assert f"above {metrics.MAX_NATS:.0f} nats" in TEXT
    assert f"{Bootstrap().resamples:,} times" in TEXT
    assert f"{Bootstrap().confidence:.0%}".replace("%", " %") in TEXT
    assert f"{gate.RESAMPLES:,} draws" in TEXT
    assert f"`min_rows` ({gate.MIN_ROWS})" in TEXT
    assert f"at most {gate.MAX_CONFIDENCE}" in TEXT

"""The report's page: everything that templates show, and the one function that fills them in.

The page takes nothing from elsewhere and runs nothing: its policy (CSP) forbids all but its own
style. The same evaluation gives the same bytes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from intarsia_client.errors import InvalidArgument
from intarsia_client.report import colours
from intarsia_client.report.bars import Bar, Span, draw
from intarsia_client.report.examples import examples_of
from intarsia_client.report.measures import Measure, measure_of, show_p_value
from intarsia_client.report.results import Results
from intarsia_client.report.tables import Tables
from intarsia_client.report.text import printable
from intarsia_client.types import Json

MOST_CHARTS_OPEN = 12  # charts of single tasks up to which they are shown at once


@dataclass(frozen=True, slots=True)
class Charts:
    """Bars over all tasks, and of each task."""

    overall: Markup | None  # None where there is but one task
    tasks: list[tuple[str, Markup]]

    @property
    def are_open(self) -> bool:
        return len(self.tasks) <= MOST_CHARTS_OPEN


@dataclass(frozen=True, slots=True)
class MetricSection:
    name: str
    measure: Measure
    tables: Tables
    charts: Charts


def evaluation_report(evaluation: Json, rows: Iterable[Json] = ()) -> str:
    """HTML of an evaluation as `GET /v1/evaluations/{id}` answers it.

    `rows`, as its `/rows` answers them, are where examples are chosen from. Raises InvalidArgument
    for an evaluation that has no results, UnexpectedAnswer for a metric that is not known here.
    """
    if evaluation["results"] is None:
        raise InvalidArgument("evaluation", f"it is {evaluation['status']}: there are no results")
    results = Results.from_json(evaluation)
    page = _environment().get_template("report.html")
    return page.render(
        evaluation=evaluation,
        results=results,
        sections=[_section(results, metric) for metric in results.metrics],
        examples=examples_of(rows, results),
    )


def _environment() -> Environment:
    """Escapes everything that a template does not write itself."""
    environment = Environment(
        loader=PackageLoader("intarsia_client.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"compact": _compact, "when": _when, "machine_time": _machine_time}
    environment.globals |= {
        "p_value": show_p_value,
        "colours": colours,
        "measure_of": measure_of,
    }
    return environment


def _finalized(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _compact(value: Any) -> str:
    """JSON as people write it; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _machine_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _section(results: Results, metric: str) -> MetricSection:
    measure = measure_of(metric)
    charts = _charts(results, metric, measure)
    return MetricSection(metric, measure, Tables(results, metric, measure), charts)


def _charts(results: Results, metric: str, measure: Measure) -> Charts:
    scores = [score for (name, *_), score in results.scores.items() if name == metric]
    span = Span.of(scores, measure)

    def chart(task: str | None) -> Markup:
        bars = [
            Bar(subject, results.score(metric, subject, task), subject == results.reference)
            for subject in results.subjects
        ]
        return draw(bars, span, measure, f"{metric}, {task or 'all tasks'}: a bar for each subject")

    is_one = len(results.tasks) == 1
    return Charts(None if is_one else chart(None), [(task, chart(task)) for task in results.tasks])

"""Bars with intervals, drawn by matplotlib, as SVG that is part of a page.

Its colours are the page's CSS variables, so one drawing serves light and dark. Names never reach
matplotlib, which would take `$` for mathematics: they are put in as text afterwards.
"""

import io
from collections.abc import Iterator, Sequence
from math import log10, nan
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from intarsia_client.report.measures import Measure
from intarsia_client.report.results import Score
from intarsia_client.report.text import printable, shortened

# In CSS pixels, which are points here.
WIDTH, ROW, FOOT, LEFT, RIGHT = 360, 24, 24, 138, 62
PIXELS_PER_INCH = 72
NAME_COLUMNS, NO_SCORE = 19, "\u2013"
THICKNESS, CAP = 0.58, 0.13  # of a bar, and half of a whisker's end, in rows
MANY_DIGITS = 5  # powers of ten from this one on are written with an exponent
MANY_FOLD = 100  # ratios that go farther are drawn on a logarithmic axis
# What matplotlib draws in these colours is shown in the page's.
SUBJECT, REFERENCE, WHISKER, FAINT, INK = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {
    SUBJECT: "var(--bar)",
    REFERENCE: "var(--bar-reference)",
    WHISKER: "var(--ink)",
    FAINT: "var(--line)",
    INK: "var(--faint)",
}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "intarsia",
    "path.simplify": False,
}  # the same bytes every time
SVG = "{http://www.w3.org/2000/svg}"
SHAPED_BY = ("d", "x", "y")
USED = ("fill", "stroke", "stroke-width", "text-anchor", "font-size")


class Bar(NamedTuple):
    name: str
    score: Score | None
    is_reference: bool


class Span(NamedTuple):
    """The axis that all charts of a metric have in common: from 0, or if `is_log` from 1."""

    high: float
    is_log: bool

    @classmethod
    def of(cls, scores: Sequence[Score], measure: Measure) -> "Span":
        high = max((score.high for score in scores), default=1.0) or 1.0
        return cls(high, is_log=measure.is_ratio and high > MANY_FOLD)

    def place(self, value: float) -> float:
        return log10(value) if self.is_log else value

    def tick(self, place: float) -> str:
        if self.is_log and place >= MANY_DIGITS:
            return f"1e{place:g}"
        return f"{10**place if self.is_log else place:g}"


def draw(bars: Sequence[Bar], span: Span, measure: Measure, label: str) -> Markup:
    """An `svg` element; `label` is what it is called where it cannot be seen."""
    height = ROW * len(bars) + FOOT
    figure = Figure(figsize=(WIDTH / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    figure.patch.set_visible(False)
    width = (WIDTH - LEFT - RIGHT) / WIDTH
    axes = figure.add_axes((LEFT / WIDTH, FOOT / height, width, ROW * len(bars) / height))
    _set_axes(axes, len(bars), span)
    _draw_bars(axes, bars, span)
    written = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(written, format="svg", dpi=PIXELS_PER_INCH, metadata=metadata)
    element = _inline(written.getvalue(), height, label)
    for index, bar in enumerate(bars):
        _write_row(element, index, bar, measure)
    return Markup(ElementTree.tostring(element, "unicode", method="html"))


def _set_axes(axes: Axes, num_bars: int, span: Span) -> None:
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_ylim(num_bars - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlim(0, span.place(span.high))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=span.is_log))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: span.tick(place)))
    axes.tick_params(axis="x", bottom=False, labelsize=10, labelcolor=INK, pad=3)
    axes.grid(axis="x", color=FAINT, linewidth=1)
    axes.set_axisbelow(True)


def _draw_bars(axes: Axes, bars: Sequence[Bar], span: Span) -> None:
    whiskers: list[tuple[float, float]] = []
    for row, bar in enumerate(bars):
        if bar.score is None:
            continue
        colour = REFERENCE if bar.is_reference else SUBJECT
        axes.barh(row, span.place(bar.score.mean), THICKNESS, color=colour)
        whiskers += _whisker(span.place(bar.score.low), span.place(bar.score.high), row)
    if whiskers:
        axes.plot(*zip(*whiskers, strict=True), color=WHISKER, linewidth=1.4)


def _whisker(low: float, high: float, row: int) -> Iterator[tuple[float, float]]:
    """Points of a line with a cap on both ends, and a gap behind it."""
    up, down = row - CAP, row + CAP
    yield from ((low, up), (low, down), (low, row))
    yield from ((high, row), (high, up), (high, down), (nan, nan))


def _inline(svg: bytes, height: int, label: str) -> ElementTree.Element:
    """The drawing alone: without ids, name spaces, and what only a file of its own needs."""
    drawing = ElementTree.fromstring(svg)
    root = ElementTree.Element("svg", viewBox=f"0 0 {WIDTH} {height}", role="img")
    root.set("aria-label", printable(label))
    for found in drawing.iter():
        if found.tag in (f"{SVG}path", f"{SVG}text"):
            shape = ElementTree.SubElement(root, found.tag.removeprefix(SVG))
            for name in SHAPED_BY:
                if name in found.attrib:
                    shape.set(name, found.attrib[name])
            shape.text = found.text
            shape.set("style", _themed(found.attrib.get("style", "")))
    return root


def _themed(style: str) -> str:
    """What of a style says something, in the page's colours."""
    told = (part.partition(":") for part in style.split(";"))
    kept = {name.strip(): value.strip() for name, _, value in told if name.strip() in USED}
    return ";".join(f"{name}:{VARIABLES.get(value, value)}" for name, value in kept.items())


def _write_row(root: ElementTree.Element, index: int, bar: Bar, measure: Measure) -> None:
    """The name on the left, its end at the bar's beginning; the score on the right."""
    base_line = str(ROW * index + ROW / 2 + 4)
    name = ElementTree.SubElement(root, "text", {"class": "name", "y": base_line})
    name.set("x", str(LEFT - 8))
    name.text = shortened(bar.name, NAME_COLUMNS)
    ElementTree.SubElement(name, "title").text = printable(bar.name)
    score = ElementTree.SubElement(root, "text", {"class": "score", "y": base_line})
    score.set("x", str(WIDTH - 2))
    score.text = NO_SCORE if bar.score is None else measure.show(bar.score.mean)

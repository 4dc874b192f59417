"""Bars with intervals, drawn by matplotlib, as SVG that is part of a page.

Its colours are the page's CSS variables, so one drawing serves light and dark. Names never reach
matplotlib, which would take `$` for mathematics: they are put in as text afterwards.
"""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from intarsia_client.report.measures import Measure
from intarsia_client.report.results import Score
from intarsia_client.report.text import printable, shortened

# In CSS pixels, which are points here.
WIDTH, ROW, FOOT, LEFT, RIGHT = 360, 24, 24, 138, 62
PIXELS_PER_INCH = 72
NAME_COLUMNS = 19
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
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "intarsia"}  # the same bytes every time
SVG = "{http://www.w3.org/2000/svg}"
USED = ("fill", "stroke", "stroke-width", "text-anchor", "font-size")


class Bar(NamedTuple):
    name: str
    score: Score | None
    is_reference: bool


class Span(NamedTuple):
    """The axis that all charts of a metric have in common."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, scores: Sequence[Score], measure: Measure) -> "Span":
        high = max((score.high for score in scores), default=1.0) or 1.0
        is_log = measure.is_ratio and high > MANY_FOLD
        return cls(1.0 if is_log else 0.0, high, is_log)


def draw(bars: Sequence[Bar], span: Span, measure: Measure, label: str) -> Markup:
    """An `svg` element; `label` is what it is called where it cannot be seen."""
    height = ROW * len(bars) + FOOT
    figure = Figure(figsize=(WIDTH / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    figure.patch.set_visible(False)
    width = (WIDTH - LEFT - RIGHT) / WIDTH
    axes = figure.add_axes((LEFT / WIDTH, FOOT / height, width, ROW * len(bars) / height))
    _set_axes(axes, len(bars), span, measure)
    _draw_bars(axes, bars, span)
    written = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(written, format="svg", dpi=PIXELS_PER_INCH, metadata=metadata)
    element = _inline(written.getvalue(), label)
    for index, bar in enumerate(bars):
        _write_row(element, index, bar, measure)
    return Markup(ElementTree.tostring(element, "unicode", method="html"))


def _set_axes(axes: Axes, num_bars: int, span: Span, measure: Measure) -> None:
    axes.set_axis_on()
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_ylim(num_bars - 0.5, -0.5)
    axes.set_yticks([])
    if span.is_log:
        axes.set_xscale("log")
    axes.set_xlim(span.low, span.high)
    axes.xaxis.set_major_locator(LogLocator(numticks=4) if span.is_log else MaxNLocator(4))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x, measure)))
    axes.tick_params(axis="x", bottom=False, labelsize=10, labelcolor=INK, pad=3)
    axes.grid(axis="x", color=FAINT, linewidth=1)
    axes.set_axisbelow(True)


def _tick(value: float, measure: Measure) -> str:
    return measure.show(value) if value >= 1e5 else f"{value:g}"


def _draw_bars(axes: Axes, bars: Sequence[Bar], span: Span) -> None:
    for index, bar in enumerate(bars):
        if bar.score is None:
            continue
        mean, low, high = bar.score
        colour = REFERENCE if bar.is_reference else SUBJECT
        axes.barh(index, mean - span.low, 0.58, left=span.low, color=colour)
        axes.plot((low, high), (index, index), color=WHISKER, linewidth=1.4)
        for end in (low, high):
            axes.plot((end, end), (index - 0.13, index + 0.13), color=WHISKER, linewidth=1.4)


def _inline(svg: bytes, label: str) -> ElementTree.Element:
    """The drawing without ids, name spaces and what only files need."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}defs"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        element.text = element.tail = element.text if element.tag == "text" else None
        element.tail = None
        told = {name: value for name, value in element.attrib.items() if _is_kept(name)}
        element.attrib.clear()
        element.attrib.update(told)
        if "style" in told:
            element.set("style", _themed(told["style"]))
    root.attrib.clear()
    height = _height(svg)
    root.attrib.update({"viewBox": f"0 0 {WIDTH} {height}", "role": "img"})
    root.set("aria-label", printable(label))
    return root

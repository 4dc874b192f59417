"""Pictures of a benchmark: bars beside each other for the table, lines for a curve.

Draws with matplotlib's own classes, so nothing of it is set for the process.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.bench.rows import Row
from loadtests.bench.table import UNITS

OURS = ("#0b5fa5", "#4c9be8", "#9cc9f5")
THEIRS = ("#c0392b", "#e08e45", "#8a8f98", "#7d5ba6", "#b7a57a")
GREY = "#d0d7de"
COLUMNS = 3  # pictures in a line
BAR = 0.8


def write(rows: Sequence[Row], path: Path) -> None:
    """Write what was measured to `path`, in the form that its suffix names: points of a curve as
    lines, other scenarios as bars, a picture each."""
    measured = [row for row in rows if row.rounds]
    names = list(dict.fromkeys(row.scenario.name for row in measured))
    colours = _colours(measured)
    if measured and all(row.scenario.x is not None for row in measured):
        figure = Figure(figsize=(7, 4), layout="constrained")
        _lines(figure.subplots(), measured, colours)
    else:
        height = -(-len(names) // COLUMNS)
        figure = Figure(figsize=(4 * COLUMNS, 2.4 * height), layout="constrained")
        places = figure.subplots(height, COLUMNS, squeeze=False).flat
        for axes, name in zip(places, names, strict=False):
            _bars(axes, [row for row in measured if row.scenario.name == name], colours)
        for axes in list(places):
            axes.set_visible(False)
    figure.savefig(path, facecolor="white")


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    """Shades of blue for us."""
    sides = {row.side.name: row.side.ours for row in rows}
    ours, theirs = iter(OURS * len(sides)), iter(THEIRS * len(sides))
    return {name: next(ours if own else theirs) for name, own in sides.items()}


def _bars(axes: Axes, rows: Sequence[Row], colours: dict[str, str]) -> None:
    ordered = sorted(rows, key=lambda row: row.value, reverse=True)
    names = [row.side.name for row in ordered]
    values = [row.value for row in ordered]
    low = [row.value - row.spread[0] for row in ordered]
    high = [row.spread[1] - row.value for row in ordered]
    bars = axes.barh(names, values, BAR, xerr=(low, high), color=[colours[n] for n in names])
    axes.bar_label(bars, fmt="%.0f", padding=4, fontsize=8)
    scenario = rows[0].scenario
    axes.set_title(scenario.name, fontsize=9)
    axes.set_xlabel(UNITS[scenario.measure], fontsize=8)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    _quiet(axes)


def _lines(axes: Axes, rows: Sequence[Row], colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        own = [row for row in rows if row.side.name == name]
        points = sorted((row.scenario.x or 0.0, row.value, *row.spread) for row in own)
        x, values, least, most = zip(*points, strict=True)
        axes.plot(x, values, marker="o", markersize=4, color=colour, label=name)
        axes.fill_between(x, least, most, color=colour, alpha=0.15, linewidth=0)
    xs = sorted({row.scenario.x or 0.0 for row in rows})
    axes.set_xscale("symlog" if xs[0] == 0 else "log", **({"linthresh": 1} if xs[0] == 0 else {}))
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.minorticks_off()
    curve = rows[0].scenario.name.rpartition(" ")[0]
    axes.set(xlabel=curve.replace("-", " "), ylabel=UNITS[rows[0].scenario.measure])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(color=GREY, linewidth=0.5)
    _quiet(axes)


def _quiet(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)

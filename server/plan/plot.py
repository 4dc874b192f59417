"""Tokens per second over the number of adapters as a picture, one panel for each device.

Opaque and dark on light, so that it reads the same in a light and in a dark viewer. Draws with
matplotlib's own classes, so nothing of it is set for the process.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server.plan.plan import CURVE, Plan

PAPER, INK, FAINT = "#ffffff", "#1f2328", "#d0d7de"
COLOURS = {"base": "#8c959f", "batched": "#0969da", "fused": "#cf222e"}
COLUMNS = 2  # panels in a line
DOTS_PER_INCH = 150
# The same picture is the same bytes: no dates, no programs' versions, ids from a constant.
METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}


def write(plans: Sequence[Plan], form: str, path: Path) -> None:
    """Write the picture to `path`; `form` is png or svg."""
    with matplotlib.rc_context({"svg.hashsalt": "intarsia", "svg.fonttype": "none"}):
        figure = draw(plans)
        figure.savefig(path, format=form, dpi=DOTS_PER_INCH, metadata=METADATA[form])


def draw(plans: Sequence[Plan]) -> Figure:
    columns = min(COLUMNS, len(plans))
    rows = -(-len(plans) // columns)
    size = (4.2 * columns, 3.0 * rows)
    figure = Figure(figsize=size, facecolor=PAPER, layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places[len(plans) :]:
        axes.set_visible(False)
    for axes, plan in zip(places, plans, strict=False):
        _panel(axes, plan)
    return figure


def _panel(axes: Axes, plan: Plan) -> None:
    for mode, rates in plan.curve.items():
        points = [(n, rate) for n, rate in zip(CURVE, rates, strict=True) if rate is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, color=COLOURS[mode], label=mode)
    axes.set_xscale("log", base=2)
    axes.set_xticks(CURVE, [str(n) for n in CURVE])
    axes.set_ylim(bottom=0)
    workload = plan.workload
    title = f"{workload.device.name}, {workload.batch} sequences of {workload.context}"
    axes.set_title(title, color=INK, fontsize=9)
    axes.set_xlabel("adapters", color=INK, fontsize=8)
    axes.set_ylabel("tok/s", color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)

"""A diagnosis as a picture: which pairs of adapters share places, and where their signs differ.

Opaque and dark on light, so that it reads the same in a light and in a dark viewer. Draws with
matplotlib's own classes, so nothing of it is set for the process. Knows no files of adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adapters_store.merging.diagnostics.counts import Counts, Floats

PAPER, INK, FAINT = "#ffffff", "#1f2328", "#d8dde3"
CELL_INCHES, MARGIN_INCHES = 0.45, 2.2
MIN_INCHES, MAX_INCHES = 2.4, 7.0  # of one map's cells
MOST_WRITTEN = 14  # members up to which each cell holds its number
DOTS_PER_INCH = 150
TOPS = (0.1, 0.25, 0.5, 1.0)  # ends of the scale: few, so that pictures can be compared
# The same picture is the same bytes: no dates, no programs' versions, ids from a constant.
METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}


@dataclass(frozen=True, slots=True)
class _Map:
    title: str
    values: Floats  # [N, N] shares; NaN where there is none
    colours: str
    top: float  # the share of the darkest colour


def write(counts: Counts, names: Sequence[str], form: str, path: Path) -> None:
    """Write the maps of these counts to `path`; `form` is png or svg."""
    with matplotlib.rc_context({"svg.hashsalt": "intarsia"}):
        figure = draw(counts, names)
        figure.savefig(path, format=form, dpi=DOTS_PER_INCH, metadata=METADATA[form])


def draw(counts: Counts, names: Sequence[str]) -> Figure:
    """Both maps side by side, one row and one column for each member."""
    side = min(max(CELL_INCHES * len(names), MIN_INCHES), MAX_INCHES)
    size = (2 * (side + MARGIN_INCHES), side + MARGIN_INCHES)
    figure = Figure(figsize=size, facecolor=PAPER, layout="constrained")
    figure.suptitle(_summary(counts), color=INK, fontsize=11)
    overlap, conflict = _apart(counts.overlap), _apart(counts.pair_conflict)
    top = next(top for top in TOPS if not (overlap > top).any())
    left, right = figure.subplots(1, 2)
    _show(left, names, _Map("Shared places, of the smaller mask", overlap, "Blues", top))
    _show(right, names, _Map("Opposite signs, of the shared places", conflict, "Oranges", 1.0))
    return figure


def _summary(counts: Counts) -> str:
    return (
        f"{len(counts.nnz)} adapters cover {counts.coverage:.1%} of their layers' places, "
        f"{counts.mean_overlap:.2f} masks each; "
        f"signs conflict in {_percent(counts.sign_conflict)} of the contested"
    )


def _apart(values: Floats) -> Floats:
    """Without the diagonal: what a member has in common with itself says nothing."""
    return np.where(np.eye(len(values), dtype=bool), np.nan, values)


def _show(axes: Axes, names: Sequence[str], shown: _Map) -> None:
    axes.set_facecolor(FAINT)  # of cells without a number
    image = axes.imshow(shown.values, cmap=shown.colours, vmin=0, vmax=shown.top)
    axes.set_title(shown.title, color=INK, fontsize=10)
    positions = range(len(names))
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(positions, names, parse_math=False, **turned)
    axes.set_yticks(positions, names, parse_math=False)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(names) <= MOST_WRITTEN:
        _write_numbers(axes, shown)
    scale = axes.figure.colorbar(image, ax=axes, shrink=0.8, format=lambda x, _: f"{x:.0%}")
    scale.ax.tick_params(colors=INK, labelsize=8)
    scale.outline.set_visible(False)


def _write_numbers(axes: Axes, shown: _Map) -> None:
    for (row, column), value in np.ndenumerate(shown.values):
        is_dark = value > 0.6 * shown.top
        colour = PAPER if is_dark else INK
        text = "" if row == column else _percent(value)
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0%}"

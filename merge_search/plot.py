"""Scores over trials as a picture: each one, the best so far, and the baselines as lines.

Opaque and dark on light, so that it reads the same in a light and in a dark viewer. Draws with
matplotlib's own classes, so nothing of it is set for the process.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from merge_search.searching import SearchResult
from merge_search.trials import Trial

PAPER, INK, FAINT, BEST, BASE = "#ffffff", "#1f2328", "#8c959f", "#0969da", "#cf222e"
DOTS_PER_INCH = 150


def write(result: SearchResult, path: Path) -> None:
    """Write the picture to `path`, whose ending says the form; png is always the same bytes."""
    draw(result).savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def draw(result: SearchResult) -> Figure:
    figure = Figure(figsize=(7, 4), facecolor=PAPER, layout="constrained")
    axes = figure.subplots()
    scored = [trial for trial in result.trials if trial.score is not None]
    _dots(axes, scored)
    _best_so_far(axes, scored, higher_is_better=result.config.higher_is_better)
    axes.set_xlabel("trial", color=INK)
    axes.set_ylabel(f"{result.config.metric}, validation", color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    told: dict[str, Any] = {"fontsize": 8, "frameon": False, "labelcolor": INK}
    figure.legend(loc="outside upper center", ncols=3, **told)
    return figure


def _dots(axes: Axes, scored: Sequence[Trial]) -> None:
    for is_baseline, colour, marker, label in (
        (True, BASE, "D", "base, candidates, average"),
        (False, FAINT, "o", "searched"),
    ):
        own = [t for t in scored if t.is_baseline == is_baseline]
        points = [(each.number, each.score) for each in own if each.score is not None]
        xs, ys = [number for number, _ in points], [score for _, score in points]
        axes.scatter(xs, ys, s=14, color=colour, marker=marker, label=label)


def _best_so_far(axes: Axes, scored: Sequence[Trial], *, higher_is_better: bool) -> None:
    mixes = [trial for trial in scored if trial.mix.members]
    scores = [trial.score for trial in mixes if trial.score is not None]
    best = list(accumulate(scores, max if higher_is_better else min))
    numbers = [trial.number for trial in mixes]
    axes.step(numbers, best, where="post", color=BEST, linewidth=1.5, label="best so far")

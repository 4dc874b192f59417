"""What many adapters cost as a picture: one curve to a cost, each beside what it must stay under.

Draws with matplotlib's own classes, so nothing of it is set for the process.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Result = Mapping[str, Any]
# Title, what is drawn of a result, the most that it may be.
CURVES: Sequence[tuple[str, Callable[[Result], float], float]] = (
    ("start beside an empty registry, s", lambda r: r["start_s"] - r["start_empty_s"], 5.0),
    ("page of a list, p95, ms", lambda r: r["lists"]["all"]["p95"], 50.0),
    (
        "first token, cold over warm",
        lambda r: r["first_token_cold_ms"] / r["first_token_warm_ms"],
        2.0,
    ),
    ("/v1/models, p50, ms", lambda r: r["models_ms"]["p50"], 100.0),
)


def write(results: Sequence[Result], path: Path) -> None:
    """Write the curves to `path`, in the form that its suffix names."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, (title, value, limit) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        _draw(axes, title, [(r["adapters"], value(r)) for r in results], limit)
    figure.savefig(path, facecolor="white")


def _draw(axes: Axes, title: str, points: Sequence[tuple[int, float]], limit: float) -> None:
    counts, values = zip(*points, strict=True)
    axes.axhline(limit, color="#c33", linestyle="--", linewidth=1)
    axes.plot(counts, values, marker="o", color="#1f2328")
    axes.set(title=title, xlabel="adapters", xscale="log")
    axes.set_ylim(bottom=min(0.0, *values), top=1.1 * max(limit, *values))
    axes.title.set_fontsize(10)

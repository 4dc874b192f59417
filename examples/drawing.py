"""The log of a comparison as `table.md` and `comparison.png`. Knows the log's lines alone."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.log import Line, Log
from examples.plan import BASE, METHODS, SPARSE, TASKS, best_rate

ORDER = (BASE, *METHODS)
PAPER, INK = "#ffffff", "#1f2328"
COLOURS = ("#b8bfc7", "#1b4f8a", "#4f8fd0", "#7a4fa3", "#d9822b", "#3a8f5c", "#b5384a")
WIDTH_INCHES, DOTS_PER_INCH = 11.0, 130
MIB = 2**20


def draw(log: Log) -> None:
    """Write both beside the log."""
    log.folder.mkdir(parents=True, exist_ok=True)
    (log.folder / "table.md").write_text(tables(log.lines()), encoding="utf-8")
    picture(log.lines()).savefig(
        log.folder / "comparison.png", dpi=DOTS_PER_INCH, metadata={"Software": None}
    )


def tables(lines: Sequence[Line]) -> str:
    """All tables of the log, in Markdown; those of stages without lines have only their heads."""
    tasks = _of_stage(lines, "tasks")
    later = [
        *(line for line in tasks if line["method"] == SPARSE),
        *_of_stage(lines, "rows"),
    ]
    parts = [
        "# Exact match, and Rouge-L in percent, on unseen rows",
        scores_table(tasks),
        "# What training costs",
        costs_table(_of_stage(lines, "costs")),
        "# Rows balanced",
        scores_table(line for line in later if line["about"] in _abouts(lines, "rows")),
        "# One adapter for all tasks",
        scores_table([*_of_stage(lines, "multitask"), *_of_stage(lines, "continue")]),
        "# Rates: validation loss after half the steps",
        rates_table(_of_stage(lines, "rates")),
    ]
    return "\n\n".join(part.removesuffix("\n") for part in parts) + "\n"


def scores_table(lines: Iterable[Line]) -> str:
    """A row for each stage's method, a column for each task, and the mean of the tasks."""
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for line in lines:
        title = line["method"] if line["stage"] in ("tasks", "rows") else _long_title(line)
        found.setdefault(title, {}).update(line["scores"])
    tasks = [task for task in TASKS if any(task in scores for scores in found.values())]
    head = ["method", *(f"`{task}`" for task in tasks), "mean"]
    rows = [[title, *_cells(found[title], tasks)] for title in sorted(found, key=_place)]
    return _markdown(head, rows)


def _cells(scores: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> list[str]:
    cells = [_score([scores[task]]) if task in scores else "" for task in tasks]
    whole = all(task in scores for task in tasks)
    return [*cells, _score([scores[task] for task in tasks]) if tasks and whole else ""]


def _score(scores: Sequence[Mapping[str, float]]) -> str:
    exact = statistics.mean(score["exact_match"] for score in scores)
    rouge = statistics.mean(score["rouge_l"] for score in scores)
    return f"{exact:.1%} / {rouge:.1f}"


def _long_title(line: Line) -> str:
    """What a line of a later stage is."""
    names = {
        "overlap average": f"the five {SPARSE} adapters, overlap average",
        "its mask": "the merge, trained on: the entries of its mask",
        "all": "the merge, trained on: all entries of the targets",
    }
    return names.get(line["method"], f"multitask, {line['method']}")


def _place(title: str) -> tuple[int, str]:
    return (ORDER.index(title) if title in ORDER else len(ORDER), title)


def costs_table(lines: Iterable[Line]) -> str:
    """Medians of each method's lines. The first phase is dense where a mask is selected."""
    by_method: dict[str, list[Line]] = {}
    for line in lines:
        by_method.setdefault(line["method"], []).append(line)
    head = [
        "method",
        "rate",
        "trained values",
        "file bytes",
        *("s per step: selecting", "then"),
        *("peak MiB: selecting", "then"),
        *("state MiB: selecting", "then"),
    ]
    rows = [_costs(method, by_method[method]) for method in sorted(by_method, key=_place)]
    return _markdown(head, rows)


def _costs(method: str, lines: Sequence[Line]) -> list[str]:
    def each(key: str, tell: Callable[[float], str]) -> list[str]:
        return [_phase(lines, key, tell, first) for first in (True, False)]

    adapter = [line["adapter"] for line in lines]
    return [
        method,
        f"{lines[0]['settings']['training']['lr']:g}",
        f"{statistics.median(a['values'] for a in adapter):,.0f}",
        f"{statistics.median(a['bytes'] for a in adapter):,.0f}",
        *each("seconds_per_step", lambda x: f"{x:.2f}"),
        *each("peak_bytes", lambda x: f"{x / MIB:,.0f}"),
        *each("state_bytes", lambda x: f"{x / MIB:,.1f}"),
    ]


def _phase(lines: Sequence[Line], key: str, tell: Callable[[float], str], first: bool) -> str:
    """The median of the selecting phase, where there is one, or of what comes after."""
    values = [value for line in lines if (value := _phase_value(line, key, first)) is not None]
    return tell(statistics.median(values)) if values else "-"


def _phase_value(line: Line, key: str, first: bool) -> float | None:
    phases = line["phases"]
    if first and len(phases) == 1:
        return None
    (name,) = ("dense",) if first else [n for n in phases if n != "dense" or len(phases) == 1]
    value: float | None = phases[name][key]
    return value


def rates_table(lines: Iterable[Line]) -> str:
    """Every rate that was tried, the chosen one in bold."""
    losses: dict[str, dict[float, float]] = {}
    for line in lines:
        rate = line["settings"]["training"]["lr"]
        losses.setdefault(line["method"], {})[rate] = line["validation_loss"]
    rates = sorted({rate for tried in losses.values() for rate in tried})
    rows = []
    for method in sorted(losses, key=_place):
        tried, best = losses[method], best_rate(losses[method])
        cells = [f"{tried[rate]:.3f}" if rate in tried else "" for rate in rates]
        rows.append(
            [method, *(f"**{c}**" if r == best else c for r, c in zip(rates, cells, strict=True))]
        )
    return _markdown(["method", *(f"{rate:g}" for rate in rates)], rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)) + "\n"


def picture(lines: Sequence[Line]) -> Figure:
    """Rouge-L of every method on every task above, peak memory and file size below."""
    tasks = _of_stage(lines, "tasks")
    methods = [m for m in ORDER if any(line["method"] == m for line in tasks)]
    figure = Figure(figsize=(WIDTH_INCHES, 7.5), facecolor=PAPER, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 2])
    _draw_scores(above, tasks, methods)
    costs = _of_stage(lines, "costs")
    _draw_peaks(below, costs, [m for m in ORDER if any(line["method"] == m for line in costs)])
    for axes in (above, below):
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=INK, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_scores(axes: Axes, lines: Sequence[Line], methods: Sequence[str]) -> None:
    tasks = [task for task in TASKS if task in {line["about"] for line in lines}]
    places, width = np.arange(len(tasks)), 0.8 / max(1, len(methods))
    for i, method in enumerate(methods):
        found = {e["about"]: e["scores"][e["about"]] for e in lines if e["method"] == method}
        heights = [found[task]["rouge_l"] if task in found else 0.0 for task in tasks]
        left = places + (i - (len(methods) - 1) / 2) * width
        axes.bar(left, heights, width * 0.92, color=COLOURS[ORDER.index(method)], label=method)
    axes.set_xticks(places, tasks)
    axes.set_ylim(0, 100)
    axes.set_ylabel("Rouge-L, %", color=INK, fontsize=9)
    title = "Unseen rows, after the same number of steps"
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    if methods:
        axes.legend(fontsize=8, frameon=False, ncols=len(ORDER), loc="upper center")
        axes.set_ylim(0, 112)


def _draw_peaks(axes: Axes, lines: Sequence[Line], methods: Sequence[str]) -> None:
    """Two bars a method: the selecting phase (pale) and what comes after."""
    for i, method in enumerate(methods):
        own = [line for line in lines if line["method"] == method]
        for first, shift, alpha in ((True, 0.2, 0.35), (False, -0.2, 1.0)):
            values = [v for e in own if (v := _phase_value(e, "peak_bytes", first)) is not None]
            if values:
                peak = statistics.median(values) / MIB
                colour = COLOURS[ORDER.index(method)]
                axes.barh(-i + shift, peak, 0.36, color=colour, alpha=alpha)
                axes.text(peak, -i + shift, f" {peak:,.0f}", va="center", color=INK, fontsize=8)
    axes.set_yticks([-i for i in range(len(methods))], methods)
    title = "Peak memory of the training process, MiB; pale: while the mask is selected"
    axes.set_title(title, color=INK, fontsize=11, loc="left")


def _of_stage(lines: Iterable[Line], stage: str) -> list[Line]:
    return [line for line in lines if line["stage"] == stage]


def _abouts(lines: Iterable[Line], stage: str) -> set[Any]:
    return {line["about"] for line in _of_stage(lines, stage)}

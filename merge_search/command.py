"""A search on a terminal: progress, tables, files, and the best one kept if asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
from intarsia_client import Client
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from merge_search import report
from merge_search.config import SearchConfig
from merge_search.publishing import publish as publish_best
from merge_search.searching import search
from merge_search.study import Stand

PLOT = "scores.png"


def run(
    config: SearchConfig, out: Path, publish: str | None, url: str, api_key: str | None
) -> None:
    """Raises SearchError and IntarsiaError."""
    with Client(url, api_key) as client:
        with _progress() as show:
            result = search(client, config, out, show)
        report.write_files(result, out)
        if find_spec("matplotlib") is not None:
            from merge_search import plot

            plot.write(result, out / PLOT)
        terminal = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
        terminal.print(report.summary_table(result))
        for trial in report.shown(result):
            terminal.print(f"{trial.number}: {trial.mix.call}")
        for remark in report.remarks(result):
            terminal.print(remark)
        click.echo(json.dumps(result.recipe))
        if publish is not None:
            click.echo(f"published {publish_best(client, result, publish).id}")


class _Shown:
    """Mutable. A bar that follows a search."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("searching", total=None, best="")

    def __call__(self, stand: Stand) -> None:
        best = f"best {stand.best.score:.4g}: {stand.best.mix.call}" if stand.best else ""
        self._progress.update(
            self._task, completed=stand.num_done, total=stand.num_trials, best=best
        )


@contextmanager
def _progress() -> Iterator[_Shown]:
    terminal = Console(stderr=True)
    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[best]}", markup=False),
    )
    hidden = not terminal.is_terminal
    with Progress(*columns, console=terminal, transient=True, disable=hidden) as progress:
        yield _Shown(progress)

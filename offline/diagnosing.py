"""`intarsia diagnose`: what merging adapter files would do to them, as tables, heat map or JSON."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from offline.diagnosis_report import Examined

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CHECKPOINT = click.Path(exists=True, file_okay=False, path_type=Path)
REFUSED = 1  # exit status


class Bound(click.ParamType[tuple[str, float]]):
    """`measure=number`."""

    name = "measure=number"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        from adapters_store.merging.diagnostics.thresholds import MEASURES

        measure, _, number = value.partition("=")
        if measure not in MEASURES:
            self.fail(f"{measure!r} is no measure; there are {', '.join(MEASURES)}", param, ctx)
        bound = click.FLOAT.convert(number, param, ctx)
        if not isfinite(bound):
            self.fail(f"{number} is no bound", param, ctx)
        return measure, float(bound)


@click.command()
@click.argument("adapters", nargs=-1, required=True, type=FILE)
@click.option("--weight", "weights", multiple=True, type=float, help="of each adapter, in order")
@click.option("--base", type=CHECKPOINT, help="their checkpoint: tells q, k and v rows apart")
@click.option("--warn-if", multiple=True, type=Bound(), help="e.g. sign_conflict=0.3")
@click.option("--refuse-if", multiple=True, type=Bound(), help="the same, and exit with status 1")
@click.option("--png", type=click.Path(path_type=Path), help="heat map to write")
@click.option("--svg", type=click.Path(path_type=Path), help="heat map to write")
@click.option("--json", "as_json", is_flag=True, help="print the whole report instead of tables")
@click.pass_context
def diagnose(
    context: click.Context,
    adapters: Sequence[Path],
    weights: Sequence[float],
    base: Path | None,
    warn_if: Sequence[tuple[str, float]],
    refuse_if: Sequence[tuple[str, float]],
    png: Path | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Tell how ADAPTERS overlap and interfere, before they are merged."""
    if weights and len(weights) != len(adapters):
        raise click.UsageError(f"--weight: {len(weights)} given for {len(adapters)} adapters")
    if not all(map(isfinite, weights)):
        raise click.UsageError("--weight: must be finite numbers")
    from offline import diagnosis_report as told
    from offline.commands import errors_shown

    with errors_shown():
        result = told.examine(adapters, weights or [1.0] * len(adapters), base)
    found = told.findings(result.diagnosis, dict(warn_if), dict(refuse_if))
    told.say_json(result, found) if as_json else told.say(result, found)
    for form, path in {"png": png, "svg": svg}.items():
        if path is not None:
            _draw(result, form, path)
    if told.verdict(found) == "refuse":
        context.exit(REFUSED)


def _draw(result: "Examined", form: str, path: Path) -> None:
    try:
        from offline import heat_map
    except ImportError as error:
        raise click.ClickException("a heat map needs matplotlib: install intarsia[plot]") from error
    heat_map.write(result.diagnosis.pooled, result.names, form, path)
    click.echo(f"{path}: heat map", err=True)

"""`intarsia merge`: its arguments. What it does is in `merge_files.py`.

That is imported when the command runs, since torch takes seconds to load.
"""

from pathlib import Path

import click

DEFAULT_METHOD = "overlap_average"
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW = click.Path(dir_okay=False, path_type=Path)


class WeightedFile(click.ParamType[tuple[Path, float | None]]):
    """FILE or FILE=WEIGHT; what is the name of a file that exists is that, whatever it holds."""

    name = "file[=weight]"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, float | None]:
        if Path(value).is_file():
            return Path(value), None
        name, _, weight = value.rpartition("=")
        if not Path(name).is_file():
            self.fail(f"there is no file {name or value}", param, ctx)
        try:
            return Path(name), float(weight)
        except ValueError:
            self.fail(f"{weight!r} is no weight", param, ctx)


class Setting(click.ParamType[tuple[str, object]]):
    """NAME=VALUE, where VALUE is a number, several with commas between, or a word."""

    name = "name=value"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        name, equals, text = value.partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            return name, text
        return name, numbers if "," in text else numbers[0]


@click.command()
@click.argument("members", nargs=-1, required=True, type=WeightedFile(), metavar="FILE[=WEIGHT]...")
@click.option("-o", "--out", type=NEW, required=True, help="the intarsia-adapter/1 file to write")
@click.option(
    "--recipe",
    type=EXISTING,
    help="do again what a recipe says: its JSON, or a merged adapter, which carries its own",
)
@click.option("--method", help=f"{DEFAULT_METHOD} unless told; see docs/merging.md")
@click.option(
    "-p", "--parameter", "parameters", type=Setting(), multiple=True, help="of the method"
)
@click.option("--seed", type=click.IntRange(min=0), help="for methods that draw")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def merge(
    members: tuple[tuple[Path, float | None], ...],
    out: Path,
    recipe: Path | None,
    method: str | None,
    parameters: tuple[tuple[str, object], ...],
    seed: int | None,
    threads: int,
) -> None:
    """Merge adapter files into one, layer by layer.

    The same recipe gives the same bytes. With --recipe the files may come in any order: they are
    known by their digests.
    """
    weighted = any(weight is not None for _, weight in members)
    if recipe and (method or parameters or seed is not None or weighted):
        raise click.UsageError("--recipe says the method, its parameters, the seed and the weights")
    from offline import commands, merge_files

    with commands.errors_shown():
        if recipe:
            paths = [path for path, _ in members]
            merge_files.replay(recipe, paths, out, threads)
        else:
            asked = merge_files.Asked(method or DEFAULT_METHOD, dict(parameters), seed)
            merge_files.merge_files(asked, members, out, threads)

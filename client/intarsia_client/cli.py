"""The command `intarsia`. Owns where subcommands come from and how errors are shown.

Knows no subcommand: each distribution joins its own through the entry points of COMMANDS. One is
imported only when it runs; the list of them is made from their sources, since importing `serve`
would bring in torch.
"""

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from intarsia_client import __version__
from intarsia_client.errors import IntarsiaError

COMMANDS = "intarsia.commands"


class EntryPointGroup(click.Group):
    """A group whose commands are the installed entry points of COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry_points(group=COMMANDS).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry_point in entry_points(group=COMMANDS, name=cmd_name):
            command: click.Command = entry_point.load()
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        summaries = {found.name: _summary(found) for found in entry_points(group=COMMANDS)}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(summaries.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IntarsiaError as error:
            raise click.ClickException(error.summary) from error


def _summary(command: EntryPoint) -> str:
    """The first line of the command's docstring, read without importing its module."""
    path = _source(command.module)
    if path is None:
        return f"(cannot run: there is no module {command.module})"
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == command.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _source(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # the package that it would lie in is missing
        return None
    return Path(spec.origin) if spec and spec.origin else None


@click.group(cls=EntryPointGroup)
@click.version_option(__version__, prog_name="intarsia")
def main() -> None:
    """Serve one base model with many sparse adapters, and talk to the server."""

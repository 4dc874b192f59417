"""The command `intarsia`. Owns where subcommands come from and how errors are shown.

Knows no subcommand: each distribution joins its own through the entry points of COMMANDS, which
are imported only when they are run or listed.
"""

from importlib.metadata import entry_points
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

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IntarsiaError as error:
            raise click.ClickException(error.summary) from error


@click.group(cls=EntryPointGroup)
@click.version_option(__version__, prog_name="intarsia")
def main() -> None:
    """Serve one base model with many sparse adapters, and talk to the server."""

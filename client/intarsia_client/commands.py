"""The subcommands that need nothing but HTTP: `intarsia chat` and `intarsia adapters`."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from intarsia_client import tables
from intarsia_client.client import Client
from intarsia_client.conversation import Conversation, show_answer, talk
from intarsia_client.errors import UnexpectedAnswer
from intarsia_client.files import OnProgress
from intarsia_client.merging import finished, setting
from intarsia_client.options import ChatOptions
from intarsia_client.types import Adapter, AdapterWeight
from intarsia_client.wire import API_KEY_VARIABLE, DEFAULT_URL

P = ParamSpec("P")


def with_client(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """Adds the options that say which server, and passes `command` a client of it."""

    @click.option("--url", envvar="INTARSIA_URL", default=DEFAULT_URL, show_default=True)
    @click.option("--api-key", envvar=API_KEY_VARIABLE, help=f"Or set {API_KEY_VARIABLE}.")
    @functools.wraps(command)
    def run(url: str, api_key: str | None, *args: P.args, **options: P.kwargs) -> None:
        with Client(url, api_key) as client:
            command(client, *args, **options)

    return run


def member(text: str) -> AdapterWeight:
    """Reads REF or REF=WEIGHT. Raises ValueError for a weight that is no number."""
    reference, separator, weight = text.partition("=")
    return AdapterWeight(reference, float(weight) if separator else 1.0)


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", help="A base or an adapter; the server's base when absent.")
@click.option(
    "--adapter",
    "members",
    type=member,
    multiple=True,
    metavar="REF[=WEIGHT]",
    help="On top of the base; several become one change, each times its weight.",
)
@click.option(
    "--merge",
    "method",
    default="linear",
    metavar="METHOD",
    help="How several become one change: a name from GET /v1/merge-methods.  [default: linear]",
)
@click.option("--system", help="Message that opens the conversation.")
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--temperature", type=click.FloatRange(min=0))
@with_client
def chat(
    client: Client,
    prompt: str | None,
    model: str | None,
    members: tuple[AdapterWeight, ...],
    method: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Answer a prompt, or hold a conversation.

    Answers PROMPT or what is piped in, once; on a terminal and without a PROMPT, line by line.
    """
    limits: ChatOptions = {"max_tokens": max_tokens, "temperature": temperature}
    options: ChatOptions = {**limits, **_composition(members, method)}
    conversation = Conversation(client, model or _base_model(client), system, options)
    if prompt is None and sys.stdin.isatty():
        talk(conversation)
    else:
        show_answer(conversation, _piped() if prompt is None else prompt)


@click.group()
def adapters() -> None:
    """List, inspect, publish and delete adapters."""


as_json = click.option("--json", "is_json", is_flag=True, help="Print what the server answered.")


@adapters.command("list")
@as_json
@with_client
def list_adapters(client: Client, is_json: bool) -> None:
    """List every adapter."""
    found = list(client.adapters())
    if is_json:
        _print_json([adapter.raw for adapter in found])
    else:
        tables.console().print(tables.adapter_list(found))


@adapters.command()
@click.argument("reference", metavar="REF")
@click.option("--stats", "is_measured", is_flag=True, help="And what it does to the base.")
@as_json
@with_client
def show(client: Client, reference: str, is_measured: bool, is_json: bool) -> None:
    """Show one adapter."""
    adapter = client.adapter(reference)
    if is_measured:
        effect = client.stats(adapter.id)
        raw = {**adapter.raw, "effect": effect.raw}
        adapter = replace(adapter, effect=effect, raw=raw)
    _show(adapter, is_json)


@adapters.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True)
@click.option("--signature", type=click.File(), help="File of its signature, in base64.")
@click.option("--dry-run", is_flag=True, help="Check and measure it; keep nothing.")
@as_json
@with_client
def upload(
    client: Client,
    path: Path,
    name: str,
    signature: TextIO | None,
    dry_run: bool,
    is_json: bool,
) -> None:
    """Publish a .safetensors, .zip or .tar.gz file, or a PEFT directory."""
    signed = signature.read().strip() if signature else None
    with _progress_bar() as on_progress:
        adapter = client.upload(
            path, name, signature=signed, dry_run=dry_run, on_progress=on_progress
        )
    _show(adapter, is_json)


@adapters.command()
@click.argument("reference", metavar="REF")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@with_client
def delete(client: Client, reference: str, yes: bool, is_json: bool) -> None:
    """Delete an adapter, and say what came free."""
    if not yes:
        click.confirm(f"Delete {reference}?", abort=True, err=True)
    gone = client.delete(reference)
    if is_json:
        return _print_json(gone.raw)
    freed = ", ".join(f"{count:,} bytes of {place}" for place, count in gone.bytes_freed.items())
    rest = "; running requests keep the rest to their end" if gone.state == "draining" else ""
    return click.echo(f"Deleted {', '.join(gone.deleted)}: {freed} freed{rest}.")


@adapters.command()
@click.argument("reference", metavar="REF")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@with_client
def download(client: Client, reference: str, path: Path) -> None:
    """Write an adapter to the file PATH."""
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}", param_hint="PATH")
    client.download(reference, path)
    click.echo(f"Wrote {path}: {path.stat().st_size:,} bytes.")


@adapters.command()
@click.argument("name")
@click.argument("members", nargs=-1, required=True, type=member, metavar="REF[=WEIGHT]...")
@click.option("--method", help="The server's default when absent.")
@click.option("-p", "--parameter", "parameters", type=setting, multiple=True, metavar="NAME=VALUE")
@click.option("--seed", type=click.IntRange(min=0), help="For methods that draw.")
@click.option("--wait", is_flag=True, help="Until the adapter is there.")
@as_json
@with_client
def merge(
    client: Client,
    name: str,
    members: tuple[AdapterWeight, ...],
    method: str | None,
    parameters: tuple[tuple[str, Any], ...],
    seed: int | None,
    wait: bool,
    is_json: bool,
) -> None:
    """Merge stored adapters into the next version of NAME."""
    given = {"method": method, "seed": seed, **dict(parameters)}
    how = {key: value for key, value in given.items() if value is not None}
    job = client.start_merge(name, members, merge=how or None)
    if wait:
        return _show(finished(client, job), is_json)
    return _print_json(job.raw) if is_json else click.echo(f"{job.id} {job.status}")


def _composition(members: tuple[AdapterWeight, ...], method: str) -> ChatOptions:
    if len(members) < 2:
        return {"adapters": members or None}
    return {"adapters": members, "merge": {"method": method}}


def _piped() -> str:
    text = sys.stdin.read()
    if not text.strip():
        raise click.UsageError("there is nothing to answer: give a PROMPT or pipe one in")
    return text


def _base_model(client: Client) -> str:
    for model in client.models():
        if model.parent is None:
            return model.id
    raise UnexpectedAnswer("GET /v1/models", "none of the models is a base")


def _show(adapter: Adapter, is_json: bool) -> None:
    if is_json:
        _print_json(adapter.raw)
    else:
        tables.console().print(tables.adapter_details(adapter))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def _progress_bar() -> Iterator[OnProgress | None]:
    """What to call with the bytes sent so far and in all; None away from a terminal."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("upload", total=None)
        yield lambda sent, total: progress.update(task, completed=sent, total=total)

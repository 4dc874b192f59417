"""`intarsia serve`: flags made from the settings' fields, a start that says what it does.

The application is imported once the settings are read, since torch takes seconds to load: help and
mistakes in flags are answered at once.
"""

import gc
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from server.model.errors import ModelError
from server.settings import Settings, SettingsConflict

if TYPE_CHECKING:
    from fastapi import FastAPI

    from adapters_store.registry import AdapterRecord
    from server.api.services import Services, Stopping
    from server.storage import Report

ALLOCATIONS = 50_000  # between two looks for garbage, while nearly everything stays
GRACE_SECONDS = 30  # running requests get this long when the server is told to stop
SHOWN_ADAPTERS = 10
SHOWN_EXAMPLES = 2
QUESTION = "What is the capital of France?"


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(flags: tuple[str, ...]) -> None:
    """Serve a base model and its adapters over the OpenAI API."""
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = _read_settings(flags)
    with _making_what_stays():
        app = _build(settings, lambda message: console.print(f"[dim]·[/] {message}"))
    console.print(welcome(app.state.services, settings), highlight=False, soft_wrap=True)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _run(_Server(config, app.state.services.stopping))


def _build(settings: Settings, report: "Report") -> "FastAPI":
    from adapters_store.machine_code import keep_in_need

    keep_in_need(settings.data_dir / "compiled")
    from server.app import create_app

    try:
        return create_app(settings, report)
    except (SettingsConflict, ModelError) as error:
        sys.exit(f"intarsia: {error}")


@contextmanager
def _making_what_stays() -> Iterator[None]:
    """What is made meanwhile is hardly looked through for garbage, and afterwards never again."""
    usual = gc.get_threshold()
    gc.set_threshold(ALLOCATIONS)
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*usual)


def _run(server: "_Server") -> None:
    """To its end, as `uvicorn.run` does."""
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)  # uvicorn has said why


class _Server(uvicorn.Server):
    """Tells the application when it is told to stop, before it waits for running requests."""

    def __init__(self, config: uvicorn.Config, stopping: "Stopping") -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.has_begun = True
        super().handle_exit(sig, frame)


def _read_settings(flags: Sequence[str]) -> Settings:
    try:
        return Settings(_cli_parse_args=list(flags))
    except ValidationError as error:
        sys.exit(_settings_faults(error))


def _settings_faults(error: ValidationError) -> str:
    lines = [
        f"INTARSIA_{'_'.join(map(str, fault['loc'])).upper()}={fault['input']!r}: {fault['msg']}"
        for fault in error.errors()
    ]
    return "\n".join(["intarsia: the settings cannot be used:", *lines])


def welcome(services: "Services", settings: Settings) -> str:
    """What is served, where, and what to try; in rich's markup."""
    url = f"http://{settings.host}:{settings.port}"
    records, _ = services.store.registry.list_page(SHOWN_ADAPTERS, None)
    tries = [(services.base_name, QUESTION), *_examples(records)]
    lines = [
        f"[bold]Intarsia[/] serves {escape(services.base_name)} at {url}",
        *(f"  [cyan]{r.id}[/] {escape(str(r.metadata.get('task', '')))}" for r in records),
        "",
        "Try, in another terminal:",
        *(f"  {_program()} chat --model {m} {escape(shlex.quote(p))}" for m, p in tries),
        f"  curl {url}/v1/models",
    ]
    return "\n".join(lines)


def _examples(records: "Sequence[AdapterRecord]") -> list[tuple[str, str]]:
    """Adapters that say what to ask them, with a question of one line each."""
    said = [(record.name, record.metadata.get("example")) for record in records]
    return [(n, p) for n, p in said if isinstance(p, str) and "\n" not in p][:SHOWN_EXAMPLES]


def _program() -> str:
    """The command as it was typed, so that it can be typed again."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "intarsia" else "intarsia"

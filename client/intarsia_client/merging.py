"""What `intarsia adapters merge` needs: how its arguments are read, and the wait for the job."""

import time
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from intarsia_client.client import Client
from intarsia_client.jobs import Job
from intarsia_client.types import Adapter

LOOK_S = 0.2  # between looks at a job


def setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE: a number, several with commas between, or a word. ValueError."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        return name, value
    return name, numbers if "," in value else numbers[0]


def finished(client: Client, job: Job) -> Adapter:
    """The adapter of a merge job, once it is there; ClickException if it does not come."""
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("merging", total=1.0)
        while not job.has_ended:
            progress.update(task, completed=job.progress)
            time.sleep(LOOK_S)
            job = client.job(job.id)
    if job.result is None:
        reason = (job.error or {}).get("message", job.status)
        raise click.ClickException(f"{job.id}: {reason}")
    return client.adapter(job.result["id"])

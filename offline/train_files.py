"""What `intarsia train` does: a base and rows in, an adapter and its report out, perhaps published.

Knows the server it publishes to only by HTTP.
"""

from pathlib import Path

import click
import httpx
import torch
from rich.table import Table
from transformers import AutoModelForCausalLM

from adapters_store.training import report
from adapters_store.training.config import TrainConfig
from adapters_store.training.failures import Interrupted
from adapters_store.training.measuring import PhaseCost
from adapters_store.training.train import Run, TrainData, run
from adapters_store.validation import check
from offline.base import Base
from offline.commands import UNLIMITED
from offline.tables import console, summary

TERMINATED = 143  # what a shell reports of a process that SIGTERM ended
UPLOAD_SECONDS = 600.0


def train_files(config: TrainConfig, api_key: str | None) -> None:
    """Train, write into `config.output`, and publish where that is asked for.

    Ends the process with TERMINATED when training was interrupted: the same call goes on.
    """
    base = Base.open(config.base)
    data = TrainData.read(base.checkpoint.tokenizer, config)
    try:
        found = run(_load(base, config), data, config, base.identity)
    except Interrupted as error:
        click.echo(str(error), err=True)
        raise SystemExit(TERMINATED) from error
    check(found.adapter, base.identity, UNLIMITED)
    report.write(found, config.output)
    _tell(found, config.output)
    if config.publish is not None:
        assert config.name is not None, "the configuration wants it"
        click.echo(publish(config.publish, config.name, config.output / report.ADAPTER, api_key))


def _load(base: Base, config: TrainConfig) -> torch.nn.Module:
    dtype = getattr(torch, config.dtype)
    model = AutoModelForCausalLM.from_pretrained(base.directory, dtype=dtype)
    loaded: torch.nn.Module = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return loaded


def _tell(found: Run, output: Path) -> None:
    console().print(_cost_table(report.costs(found)))
    click.echo(f"{output / report.ADAPTER}: {summary(found.adapter)}, {found.adapter.digest}")


def _cost_table(costs: dict[str, PhaseCost]) -> Table:
    table = Table("phase", "steps", "seconds per step", "peak memory", "training state", box=None)
    for phase, cost in costs.items():
        peak = "unknown" if cost.peak_bytes is None else _mib(cost.peak_bytes)
        seconds = f"{cost.seconds_per_step:.3f}"
        table.add_row(phase, str(cost.steps), seconds, peak, _mib(cost.state_bytes))
    return table


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def publish(url: str, name: str, path: Path, api_key: str | None) -> str:
    """Upload the adapter at `path` as `name`; says what it became. ClickException if refused."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with path.open("rb") as file:
            answer = httpx.post(
                f"{url.rstrip('/')}/v1/adapters",
                data={"name": name},
                files={"file": (path.name, file)},
                headers=headers,
                timeout=UPLOAD_SECONDS,
            )
    except httpx.HTTPError as error:
        raise click.ClickException(f"{url}: not published: {error}") from error
    if answer.is_error:
        raise click.ClickException(f"{url}: not published: {_reason(answer)}")
    return f"{url}: published as {answer.json()['id']}"


def _reason(answer: httpx.Response) -> str:
    """The server's own message, or its status where the answer has none."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"

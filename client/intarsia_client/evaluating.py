"""`intarsia evaluate`: submits an evaluation, shows how far it is, prints its results."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from intarsia_client.client import Client
from intarsia_client.commands import as_json, with_client
from intarsia_client.evaluation import Evaluation
from intarsia_client.report.writing import check_report, write_report
from intarsia_client.tables import console
from intarsia_client.types import Json

LOOK_S = 0.2  # between looks at an evaluation
BESIDE_FROM = {"earlier", "report", "is_json", "url", "api_key"}  # what --from goes with
DATASET_ID = "data-"
SPLITS = ("train", "validation", "test")


def subject(text: str) -> Any:
    """Reads a reference, or an object as requests have it. ValueError."""
    return json.loads(text) if text.startswith("{") else text


def bar_over(text: str) -> Json:
    """Reads SUBJECT or SUBJECT=DELTA. ValueError for a delta that is no number."""
    name, equals, delta = text.partition("=")
    return {"subject": name, "delta": float(delta) if equals else 0.0}


@click.command()
@click.argument("subjects", nargs=-1, type=subject, metavar="SUBJECT...")
@click.option(
    "--data",
    multiple=True,
    metavar="FILE|ID|TASK[:SPLIT]",
    help="A JSON lines file, a data set that is kept, or a task that the server has built.",
)
@click.option("--metric", "metrics", multiple=True, default=("rouge_l",), show_default=True)
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--temperature", type=click.FloatRange(min=0))
@click.option("--stop", multiple=True)
@click.option("--chat", "is_chat", is_flag=True, help="Ask as the chat template does.")
@click.option("--limit", type=click.IntRange(min=1), help="Rows of each data set.")
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option("--reference", help="The subject that the others are compared with.")
@click.option("--promote", metavar="NAME@ALIAS", help="Move the alias if the bar is met.")
@click.option("--candidate", metavar="SUBJECT", help="Of several, the one to be promoted.")
@click.option("--min", "least", type=float, help="Bar: the first metric is at least so much.")
@click.option("--min-delta-over", "over", type=bar_over, metavar="SUBJECT[=DELTA]", help="Bar.")
@click.option("--min-rows", type=click.IntRange(min=1), help="Bar: rows of every data set.")
@click.option("--detach", is_flag=True, help="Do not wait; print the id.")
@click.option("--from", "earlier", metavar="ID", help="Show an evaluation that was begun before.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Write tables, heat maps, bars and examples as one page.",
)
@as_json
@with_client
def evaluate(
    client: Client,
    /,
    subjects: tuple[Any, ...],
    data: tuple[str, ...],
    metrics: tuple[str, ...],
    detach: bool,
    earlier: str | None,
    report: Path | None,
    is_json: bool,
    **options: Any,
) -> None:
    """Score base, adapters and compositions on data sets.

    A SUBJECT is a reference, or an object such as {"adapters": [...], "merge": {...}}. The exit
    status is 1 if the evaluation fails, or its bar is missed.
    """
    if detach and report is not None:
        raise click.UsageError("--report waits for the results: it goes without --detach")
    if report is not None:
        check_report(report)
    found = (
        _begun(client, subjects, data, metrics, options)
        if earlier is None
        else _earlier(client, earlier)
    )
    if detach:
        click.echo(found.id)
        return
    found = _finished(client, found)
    if report is not None:
        write_report(client, found, report)
        click.echo(f"Wrote {report}.", err=True)
    _show(found, is_json)
    if found.promotion is not None and not found.promotion["promoted"]:
        sys.exit(1)


def _begun(
    client: Client,
    subjects: tuple[Any, ...],
    data: tuple[str, ...],
    metrics: tuple[str, ...],
    options: Json,
) -> Evaluation:
    if not subjects or not data:
        raise click.UsageError("an evaluation needs a SUBJECT and --data, or --from")
    return client.start_evaluation(
        subjects,
        [_dataset(client, text) for text in data],
        metrics,
        generation=_generation(options),
        prompt_mode="chat" if options["is_chat"] else "raw",
        promote=_promote(options, metrics),
        **{name: options[name] for name in ("limit", "seed", "confidence", "reference")},
    )


def _earlier(client: Client, evaluation_id: str) -> Evaluation:
    """UsageError beside what an evaluation has been told already."""
    context = click.get_current_context()
    for name in context.params.keys() - BESIDE_FROM:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--from is of an evaluation that has its own {name}")
    return client.evaluation(evaluation_id)


def _dataset(client: Client, text: str) -> Json:
    if Path(text).is_file():
        return {"id": client.upload_dataset(text).id, "name": Path(text).stem}
    if text.startswith(DATASET_ID):
        return {"id": text}
    task, _, split = text.partition(":")
    if split and split not in SPLITS:
        raise click.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--data")
    return {"task": task} | ({"split": split} if split else {})


def _generation(options: Json) -> Json:
    given = {name: options[name] for name in ("max_tokens", "temperature")}
    given["stop"] = list(options["stop"]) or None
    return {name: value for name, value in given.items() if value is not None}


def _promote(options: Json, metrics: tuple[str, ...]) -> Json | None:
    bars = {"min": options["least"], "min_delta_over": options["over"]}
    bars["min_rows"] = options["min_rows"]
    given = {name: value for name, value in bars.items() if value is not None}
    if options["promote"] is None:
        if given:
            raise click.UsageError("a bar needs --promote")
        return None
    chosen = {} if options["candidate"] is None else {"subject": options["candidate"]}
    return {"alias": options["promote"], "if": {"metric": metrics[0], **given}, **chosen}


def _finished(client: Client, found: Evaluation) -> Evaluation:
    """The evaluation once it has succeeded; ClickException if it does not."""
    with _progress() as progress:
        task = progress.add_task("evaluating", total=found.rows_total)
        while not found.has_ended:
            progress.update(task, completed=found.rows_done)
            time.sleep(LOOK_S)
            found = client.evaluation(found.id)
    if found.status != "succeeded":
        reason = (found.error or {}).get("message", found.status)
        raise click.ClickException(f"{found.id}: {reason}")
    return found


@contextmanager
def _progress() -> Iterator[Progress]:
    terminal = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not terminal.is_terminal
    with Progress(*columns, console=terminal, transient=True, disable=hidden) as progress:
        yield progress


def _show(found: Evaluation, is_json: bool) -> None:
    if is_json:
        click.echo(json.dumps(found.raw, indent=2, ensure_ascii=False))
        return
    console().print(results_table(found))
    if found.promotion is not None:
        moved = "moved" if found.promotion["promoted"] else "stays"
        console().print(f"{found.promotion['alias']} {moved}:")
        for reason in found.promotion["reasons"]:
            console().print(f"  {reason}")


def results_table(found: Evaluation) -> Table:
    """A line for every subject and task, and where there are several tasks for all of them."""
    tasks = {each["task"] for each in found.results}
    lines = [*found.results, *(found.overall if len(tasks) > 1 else ())]
    metrics = list(lines[0]["metrics"]) if lines else []
    table = Table("subject", "task", "n", *metrics, box=None)
    for each in lines:
        cells = [_cell(each["metrics"][name]) for name in metrics]
        table.add_row(each["subject"], each["task"] or "all", str(each["n"]), *cells)
    return table


def _cell(score: Json) -> str:
    return f"{score['mean']:.4g} [{score['low']:.4g}, {score['high']:.4g}]"

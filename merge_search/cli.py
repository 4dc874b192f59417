"""`intarsia search`: its arguments. What it does is in `command.py`, imported when it runs."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from intarsia_client.wire import API_KEY_VARIABLE, DEFAULT_URL

OUT = Path("search")


class Span(click.ParamType[dict[str, float]]):
    """LOW:HIGH."""

    name = "low:high"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, float]:
        try:
            low, high = map(float, value.split(":"))
        except ValueError:
            self.fail(f"{value!r} is not of the form LOW:HIGH", param, ctx)
        return {"low": low, "high": high}


class Parameter(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE, NAME=VALUE,VALUE,... or NAME=LOW:HIGH."""

    name = "name=values"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not of the form NAME=VALUES", param, ctx)
        if ":" in text:
            return name, Span().convert(text, param, ctx)
        values = [_number_or_word(each) for each in text.split(",")]
        return name, values if len(values) > 1 else values[0]


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@click.command()
@click.argument("candidates", nargs=-1, metavar="[ADAPTER]...")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with the fields of docs/search.md; what is told here comes first",
)
@click.option("--data", multiple=True, metavar="FILE|ID|TASK[:SPLIT]", help="validation rows")
@click.option(
    "--test", multiple=True, metavar="FILE|ID|TASK[:SPLIT]", help="rows to judge the best by"
)
@click.option("--metric", help="the score, a mean over data sets  [default: rouge_l]")
@click.option(
    "--method", "methods", multiple=True, help="of docs/merging.md  [default: overlap_average]"
)
@click.option("--weights", type=Span(), help="ends of each weight  [default: 0:1.5]")
@click.option("--sum", "total", type=float, help="what weights add up to, each at least 0")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    type=Parameter(),
    multiple=True,
    help="of the methods: density=0.1:0.9, density=0.2 or sign=sum,count",
)
@click.option("--trials", type=click.IntRange(min=1), help="at most, all told  [default: 64]")
@click.option("--batch", type=click.IntRange(1, 256), help="evaluated together  [default: 8]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="of evaluation, at most")
@click.option("--grid", type=click.IntRange(min=2), help="steps of each range: try every point")
@click.option("--seed", type=click.IntRange(min=0), help="of what is tried  [default: 0]")
@click.option("--top", type=click.IntRange(min=1), help="trials to test and show  [default: 3]")
@click.option("--max-tokens", type=click.IntRange(min=1), help="of an answer")
@click.option("--chat", is_flag=True, help="ask through the chat template")
@click.option("--limit", type=click.IntRange(min=1), help="rows of each validation set")
@click.option("--test-limit", type=click.IntRange(min=1), help="rows of each test set")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=OUT,
    show_default=True,
    help="directory of the journal and what comes of it; a search in it goes on",
)
@click.option("--publish", metavar="NAME", help="keep the best as an adapter")
@click.option("--url", envvar="INTARSIA_URL", default=DEFAULT_URL, show_default=True)
@click.option("--api-key", envvar=API_KEY_VARIABLE, help=f"Or set {API_KEY_VARIABLE}.")
def search(
    config: Path | None, out: Path, publish: str | None, url: str, api_key: str | None, **flags: Any
) -> None:
    """Find the weights, method and parameters that merge adapters best."""
    from merge_search import command
    from merge_search.config import read_config
    from merge_search.errors import SearchError

    try:
        asked = read_config(config, fields_of(flags))
        if asked.grid is None and find_spec("optuna") is None:
            raise click.ClickException(
                "a search wants optuna: pip install 'intarsia[search]', or try a --grid"
            )
        command.run(asked, out, publish, url, api_key)
    except SearchError as error:
        raise click.ClickException(str(error)) from error


def fields_of(flags: dict[str, Any]) -> dict[str, Any]:
    """The fields of a search that flags tell, without those that were not given."""
    total, max_tokens, is_chat = (flags.pop(name) for name in ("total", "max_tokens", "chat"))
    weights = flags.pop("weights")
    if total is not None:
        if weights is not None:
            raise click.UsageError("--sum goes without --weights")
        weights = {"sum": total}
    told = {
        **flags,
        "weights": weights,
        "parameters": dict(flags["parameters"]),
        "generation": None if max_tokens is None else {"max_tokens": max_tokens},
        "prompt_mode": "chat" if is_chat else None,
    }
    return {name: value for name, value in told.items() if value not in (None, (), {})}

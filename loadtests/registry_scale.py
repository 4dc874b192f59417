"""What many registered adapters cost: start, lists, first token of an adapter never used before.

    python -m loadtests.registry_scale [--counts 100 1000 10000] [--plot FILE]

One registry grows by uploads over HTTP. At each count its server is started several times, in turn
with one of an empty registry; then one server is asked for pages of every kind of list, and for
first tokens: of an adapter that it has never used, from its file, in turn with one that it just
has, from memory. Prompts are shorter than a page, so no prefix is cached. The last line is JSON.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, ParamSpec

import httpx
from rich.console import Console
from rich.table import Table

from loadtests.servers import running_server
from loadtests.small_adapters import name_of, upload_all

TIMEOUT_S = 120.0
PAGE = 100
# What is asked for; but for the first, each page begins after an adapter chosen at random.
LISTS: Mapping[str, Mapping[str, str]] = {
    "first page": {},
    "any page": {},
    "kind": {"kind": "low_rank"},
    "rare tag": {"tag": "rare"},
    "name": {"name": "adapter-000"},
    "search, all found": {"q": "adapter"},
    "search, few found": {"q": "ter-0007"},
    "search, none found": {"q": "adapter of no kind"},
}

Result = dict[str, Any]
Given = ParamSpec("Given")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    draw = _drawing(options.plot)
    with tempfile.TemporaryDirectory() as directory:
        results = list(_measured(options, Path(directory)))
    _show(results)
    draw(results)
    print(json.dumps({"base": options.base_model.name, "results": results}))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("--counts", type=int, nargs="+", default=[100, 1000, 10_000])
    add("--base-model", type=Path, default=Path("data/demo-base"))
    add("--starts", type=int, default=5, help="of each server")
    add("--pages", type=int, default=40, help="of each kind of list")
    add("--first-tokens", type=int, default=60, help="of cold adapters, and as many of warm ones")
    add("--plot", type=Path, help="write the curves to this .svg or .png; needs matplotlib")
    return parser.parse_args(arguments)


def _measured(options: argparse.Namespace, directory: Path) -> Iterator[Result]:
    """A result for each count, from the smallest on."""
    base, have = options.base_model, 0
    hidden_size = json.loads((base / "config.json").read_text())["hidden_size"]
    empty, full = directory / "empty", directory / "full"
    with _server(base, empty):
        pass  # what only the first start over a directory does
    for count in sorted(options.counts):
        with _server(base, full) as http:
            seconds = _seconds(upload_all, http, range(have, count), hidden_size)
        result = {"adapters": count, "upload_ms": 1000 * seconds / (count - have)}
        result |= _starts(base, empty, full, options.starts)
        with _server(base, full) as http:
            result["lists"] = _lists(http, count, options.pages)
            result["models_ms"] = _of_many(_models(http) for _ in range(options.pages))
            result |= _first_tokens(http, count, options.first_tokens)
        have = count
        yield result


@contextmanager
def _server(base: Path, data: Path) -> Iterator[httpx.Client]:
    """A client of a fresh server over `data`."""
    data.mkdir(exist_ok=True)
    flags = ("--base-model", str(base), "--data-dir", str(data), "--device", "cpu")
    with (
        running_server(data / "server.log", *flags) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT_S) as http,
    ):
        yield http


def _starts(base: Path, empty: Path, full: Path, count: int) -> Result:
    """Median seconds until a server is ready, of `count` starts in turn."""
    seconds: dict[str, list[float]] = {"start_empty_s": [], "start_s": []}
    for _ in range(count):
        for name, data in (("start_empty_s", empty), ("start_s", full)):
            started = time.perf_counter()
            with _server(base, data):
                seconds[name].append(time.perf_counter() - started)
    return {name: median(found) for name, found in seconds.items()}


def _lists(http: httpx.Client, count: int, num_pages: int) -> Result:
    """Milliseconds of a page by kind of list, all kinds in turn."""
    source = random.Random(count)
    seconds: dict[str, list[float]] = {kind: [] for kind in LISTS}
    for _ in range(num_pages):
        for kind, wanted in LISTS.items():
            params = {"limit": str(PAGE), **wanted}
            if kind != "first page":
                params["after"] = f"{name_of(source.randrange(count))}@1"
            seconds[kind].append(_seconds(_get, http, "/v1/adapters", params))
    every = [one for found in seconds.values() for one in found]
    return {"all": _of_many(every)} | {kind: _of_many(found) for kind, found in seconds.items()}


def _models(http: httpx.Client) -> float:
    return _seconds(_get, http, "/v1/models", {})


def _get(http: httpx.Client, path: str, params: Mapping[str, str]) -> None:
    http.get(path, params=params).raise_for_status()


def _first_tokens(http: httpx.Client, count: int, num_adapters: int) -> Result:
    """Median milliseconds to the first token of adapters spread over all, cold and warm in turn."""
    _first_token(http, name_of(0))  # what only the first request of a server pays
    spread = range(1, count, max(1, (count - 1) // num_adapters))
    pairs = [(_first_token(http, name), _first_token(http, name)) for name in map(name_of, spread)]
    cold, warm = (1000 * median(found) for found in zip(*pairs, strict=True))
    return {"first_token_cold_ms": cold, "first_token_warm_ms": warm}


def _first_token(http: httpx.Client, model: str) -> float:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 1, "temperature": 0}
    return _seconds(_post, http, "/v1/completions", body)


def _post(http: httpx.Client, path: str, body: Mapping[str, Any]) -> None:
    http.post(path, json=body).raise_for_status()


def _seconds(act: Callable[Given, object], *args: Given.args, **kwargs: Given.kwargs) -> float:
    """How long it takes."""
    started = time.perf_counter()
    act(*args, **kwargs)
    return time.perf_counter() - started


def _of_many(seconds: Iterable[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    found = sorted(seconds)
    return {"p50": 1000 * median(found), "p95": 1000 * quantiles(found, n=20)[-1]}


def _show(results: Sequence[Result]) -> None:
    table = Table("", *(f"{result['adapters']:,} adapters" for result in results))
    rows: dict[str, Callable[[Result], str]] = {
        "upload": lambda r: f"{r['upload_ms']:.1f} ms",
        "start, empty": lambda r: f"{r['start_empty_s']:.2f} s",
        "start": lambda r: f"{r['start_s']:.2f} s ({r['start_s'] - r['start_empty_s']:+.2f} s)",
        "first token, warm": lambda r: f"{r['first_token_warm_ms']:.1f} ms",
        "first token, cold": _cold,
        "/v1/models, p50 / p95": lambda r: _both(r["models_ms"]),
        "every list, p50 / p95": lambda r: _both(r["lists"]["all"]),
    }
    rows |= {f"  {kind}": lambda r, kind=kind: _both(r["lists"][kind]) for kind in LISTS}  # type: ignore[misc]
    for title, cell in rows.items():
        table.add_row(title, *(cell(result) for result in results))
    Console(width=100).print(table)


def _drawing(path: Path | None) -> Callable[[Sequence[Result]], None]:
    """Writes the curves where a path is given. ImportError now, not when all is measured."""
    if path is None:
        return lambda results: None
    from loadtests import registry_curve

    return partial(registry_curve.write, path=path)


def _cold(result: Result) -> str:
    cold, warm = result["first_token_cold_ms"], result["first_token_warm_ms"]
    return f"{cold:.1f} ms ({cold / warm:.2f} x)"


def _both(found: Mapping[str, float]) -> str:
    return f"{found['p50']:.1f} / {found['p95']:.1f} ms"


if __name__ == "__main__":
    main()

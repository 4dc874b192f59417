"""What many registered adapters cost: start, list, first token of an adapter never used before.

    python -m loadtests.registry_scale [--counts 100 1000 10000] [--base-model DIRECTORY]

Each count has a data directory of its own, filled over HTTP with LoRA adapters of rank 1 on one
layer; its server is started several times, in turn with one of an empty registry. A cold adapter's
first token comes from the file, a warm one's from memory. The last line is JSON.
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

from loadtests.servers import running_server

LAYER = "model.layers.0.self_attn.o_proj"
UPLOADERS = 4
STARTS = 3
PAGES = 200
FIRST_TOKENS = 40
TIMEOUT_S = 120.0
LISTS: tuple[dict[str, str], ...] = (
    {},
    {"kind": "low_rank"},
    {"tag": "rare"},
    {"q": "adapter-0007"},
    {"name": "adapter-000"},
)


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as directory:
        results = [
            _measure(arguments.base_model, Path(directory) / str(count), count)
            for count in arguments.counts
        ]
    _show(results)
    print(json.dumps({"base": arguments.base_model.name, "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--base-model", type=Path, default=Path("data/demo-base"))
    return parser.parse_args()


def _measure(base: Path, directory: Path, count: int) -> dict[str, Any]:
    empty, full = directory / "empty", directory / "full"
    empty.mkdir(parents=True)
    full.mkdir()
    with _server(base, full) as (http, _):
        seconds = _fill(http, base, count)
    starts = {"empty": [_start(base, empty)], "full": [_start(base, full)]}
    for _ in range(STARTS):
        for name, data in (("empty", empty), ("full", full)):
            starts[name].append(_start(base, data))
    with _server(base, full) as (http, _):
        pages, (cold, warm) = _pages(http), _first_tokens(http, count)
    return {
        "adapters": count,
        "upload_ms": 1000 * seconds / count,
        "start_empty_s": median(starts["empty"][1:]),
        "start_s": median(starts["full"][1:]),
        "list_p50_ms": 1000 * median(pages),
        "list_p95_ms": 1000 * quantiles(pages, n=20)[-1],
        "first_token_cold_ms": 1000 * median(cold),
        "first_token_warm_ms": 1000 * median(warm),
    }


class _server:
    """A client of a fresh server over `data`, and the seconds until the server was ready."""

    def __init__(self, base: Path, data: Path) -> None:
        flags = ("--base-model", str(base), "--data-dir", str(data), "--device", "cpu")
        self._server = running_server(data / "server.log", *flags)

    def __enter__(self) -> tuple[httpx.Client, float]:
        started = time.perf_counter()
        url = self._server.__enter__()
        elapsed = time.perf_counter() - started
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        return self._http, elapsed

    def __exit__(self, *failure: Any) -> None:
        self._http.close()
        self._server.__exit__(*failure)


def _start(base: Path, data: Path) -> float:
    with _server(base, data) as (_, elapsed):
        return elapsed


def _fill(http: httpx.Client, base: Path, count: int) -> float:
    """Upload `count` adapters, one in a hundred tagged `rare`; the seconds it took."""
    config = json.loads((base / "config.json").read_text())
    started = time.perf_counter()
    with ThreadPoolExecutor(UPLOADERS) as pool:
        for answer in pool.map(lambda n: _upload(http, n, config["hidden_size"]), range(count)):
            answer.raise_for_status()
    return time.perf_counter() - started


def _upload(http: httpx.Client, number: int, hidden: int) -> httpx.Response:
    metadata = {"task": "benchmark", "tags": ["rare"] if number % 100 == 0 else []}
    form = {"name": _name(number), "metadata": json.dumps(metadata)}
    file = ("adapter.zip", _peft_zip(number, hidden))
    return http.post("/v1/adapters", data=form, files={"file": file})


def _name(number: int) -> str:
    return f"adapter-{number:05}"


def _peft_zip(seed: int, hidden: int) -> bytes:
    """A PEFT directory of a random LoRA adapter of rank 1, zipped."""
    source = np.random.default_rng(seed)
    stem = f"base_model.model.{LAYER}"
    tensors = {
        f"{stem}.lora_A.weight": source.standard_normal((1, hidden), dtype=np.float32),
        f"{stem}.lora_B.weight": source.standard_normal((hidden, 1), dtype=np.float32) * 0.01,
    }
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["o_proj"]}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("adapter_config.json", json.dumps(config))
        archive.writestr("adapter_model.safetensors", save(tensors))
    return packed.getvalue()


def _pages(http: httpx.Client) -> list[float]:
    """Seconds of pages of 100: of every kind of list in turn, following its cursor."""
    cursors: dict[int, str | None] = {}
    seconds = []
    for number in range(PAGES):
        kind = number % len(LISTS)
        params = {"limit": 100, "after": cursors.get(kind), **LISTS[kind]}
        given = {name: value for name, value in params.items() if value is not None}
        started = time.perf_counter()
        page = http.get("/v1/adapters", params=given).raise_for_status()
        seconds.append(time.perf_counter() - started)
        cursors[kind] = page.json()["next_cursor"]
    return seconds


def _first_tokens(http: httpx.Client, count: int) -> tuple[list[float], list[float]]:
    """Seconds to the first token of adapters spread over all, first cold, then warm."""
    _first_token(http, _name(0))  # what only the first request of a server pays
    names = [_name(number) for number in _spread(count)]
    return tuple([_first_token(http, name) for name in names] for _ in range(2))  # type: ignore[return-value]


def _spread(count: int) -> Iterator[int]:
    step = max(1, (count - 1) // FIRST_TOKENS)
    return iter(range(1, count, step))


def _first_token(http: httpx.Client, model: str) -> float:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 1, "temperature": 0}
    started = time.perf_counter()
    http.post("/v1/completions", json=body).raise_for_status()
    return time.perf_counter() - started


def _show(results: Sequence[dict[str, Any]]) -> None:
    table = Table("adapters", "start, empty / full", "list p50 / p95", "first token, cold / warm")
    for row in results:
        start = f"{row['start_empty_s']:.2f} s / {row['start_s']:.2f} s"
        pages = f"{row['list_p50_ms']:.1f} ms / {row['list_p95_ms']:.1f} ms"
        cold, warm = row["first_token_cold_ms"], row["first_token_warm_ms"]
        first = f"{cold:.1f} ms / {warm:.1f} ms ({cold / warm:.2f} x)"
        table.add_row(str(row["adapters"]), start, pages, first)
    Console().print(table)


if __name__ == "__main__":
    main()

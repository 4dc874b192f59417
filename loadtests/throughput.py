"""What adapters cost: the base alone against a mix of adapters, over HTTP, on one server.

    python -m loadtests.throughput [--concurrency 1 8 32] [--rounds 3]

Rounds alternate between the two sides, so that a machine that slows down slows both; the table has
medians, and the ratio of medians. The last line is the same as JSON.
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from intarsia_client import Client
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.servers import running_server
from loadtests.workload import Round, closed_loop

EXAMPLES = Path(__file__).parents[1] / "examples" / "adapters"


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "server.log"
        with running_server(log, "--publish-dir", str(arguments.publish_dir)) as url:
            results = [_compare(url, c, arguments.rounds) for c in arguments.concurrency]
    _show(results)
    print(json.dumps({"cores": os.cpu_count(), "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--publish-dir", type=Path, default=EXAMPLES)
    return parser.parse_args()


def _compare(url: str, concurrency: int, rounds: int) -> dict[str, Any]:
    """Medians of both sides at one concurrency, after one round of each to warm up."""
    with Client(url) as client:
        models = client.models()
    base = [model.id for model in models if model.parent is None]
    mixed = [model.id for model in models if model.parent is not None]
    sides: dict[str, list[Round]] = {"base": [], "adapters": []}
    for index in track(range(rounds + 1), f"{concurrency} at a time"):
        for name, served in (("base", base), ("adapters", mixed)):
            sides[name].append(_round(url, served, concurrency, index))
    kept = {name: measured[1:] for name, measured in sides.items()}
    return {
        "concurrency": concurrency,
        "adapters": len(mixed),
        **{f"{name}_tokens_per_s": _median(kept[name], "tokens_per_s") for name in kept},
        **{f"{name}_first_token_s": _median(kept[name], "first_token_s") for name in kept},
    }


def _round(url: str, models: Sequence[str], concurrency: int, seed: int) -> Round:
    return asyncio.run(closed_loop(url, models, concurrency, max(4, concurrency), seed))


def _median(rounds: Sequence[Round], field: str) -> float:
    return float(median(getattr(one, field) for one in rounds))


def _show(results: Sequence[dict[str, Any]]) -> None:
    table = Table(
        "at a time", "base tok/s", "adapters tok/s", "ratio", "first token, base / adapters"
    )
    for row in results:
        base, mixed = row["base_tokens_per_s"], row["adapters_tokens_per_s"]
        first = f"{row['base_first_token_s']:.2f} s / {row['adapters_first_token_s']:.2f} s"
        cells = (row["concurrency"], f"{base:.1f}", f"{mixed:.1f}", f"{mixed / base:.2f}", first)
        table.add_row(*map(str, cells))
    Console().print(table)


if __name__ == "__main__":
    main()

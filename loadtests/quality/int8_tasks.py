"""Scores of shipped adapters on their tasks, beside an fp32 base and beside an int8 one.

    python -m loadtests.quality.int8_tasks antonym=rows.jsonl number-words=other.jsonl

Rows have a prompt and a target; answers are greedy. The last line is JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from intarsia_client import Client
from rich.console import Console
from rich.table import Table

from loadtests.servers import running_server

ADAPTERS = Path(__file__).parents[2] / "examples" / "adapters"
SIDES = {"fp32": "none", "int8": "int8"}
METRICS = ["rouge_l", "exact_match"]
MAX_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", metavar="ADAPTER=ROWS")
    parser.add_argument("--data-dir", default="data")
    given = parser.parse_args()
    tasks = {name: Path(rows) for name, rows in (task.split("=") for task in given.tasks)}
    found = {side: _scores(kind, tasks, given.data_dir) for side, kind in SIDES.items()}
    table = Table("adapter", *(f"{metric}, {side}" for metric in METRICS for side in SIDES))
    for name in tasks:
        cells = (found[side][name][metric] for metric in METRICS for side in SIDES)
        table.add_row(name, *(f"{cell:.4f}" for cell in cells))
    Console().print(table)
    print(json.dumps(found))


def _scores(kind: str, tasks: Mapping[str, Path], data_dir: str) -> dict[str, dict[str, float]]:
    """Means of each adapter on its own task."""
    flags = ["--publish-dir", str(ADAPTERS), "--quantization", kind, "--data-dir", data_dir]
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(Path(scratch, "server.log"), *flags) as url,
        Client(url, timeout=3600) as client,
    ):
        return {name: _evaluated(client, name, rows) for name, rows in tasks.items()}


def _evaluated(client: Client, adapter: str, rows: Path) -> dict[str, float]:
    begun = client.start_evaluation(
        [{"model": adapter, "name": adapter}],
        [{"id": client.upload_dataset(rows).id, "name": adapter}],
        METRICS,
        generation={"max_tokens": MAX_TOKENS},
        prompt_mode="chat",
    )
    *_, found = client.watch_evaluation(begun.id)
    assert found.status == "succeeded", found.raw
    [result] = found.raw["results"]
    return {metric: result["metrics"][metric]["mean"] for metric in METRICS}


if __name__ == "__main__":
    main()

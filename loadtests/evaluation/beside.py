"""What live requests wait for while an evaluation runs behind them: with and without, in turn.

    python -m loadtests.evaluation.beside [--at-a-time 1 8] [--rounds 5]

An evaluation may delay a live request by the step that is being computed, a short one, and makes
the steps it shares about a quarter longer (`server/engine/pace.py`). The last line printed is JSON.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from intarsia_client import AsyncClient, Client
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.servers import running_server

ADAPTERS = Path(__file__).parents[2] / "examples" / "adapters"
PROMPT_TOKENS, NEW_TOKENS = 32, 32
ROWS = 4000  # more than a round lasts
SIDES = ("alone", "beside")
HEAD = ("at a time", "first token ms, median / p95", "between tokens ms, median / p99", "tok/s")


def main() -> None:
    asked = _arguments()
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(Path(scratch) / "log", "--publish-dir", str(ADAPTERS)) as url,
    ):
        results = [_compare(url, number, asked.rounds) for number in asked.at_a_time]
    _show(results)
    print(json.dumps(results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[1, 8], help="live requests")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _compare(url: str, number: int, rounds: int) -> dict[str, Any]:
    """Both sides' times of all rounds but the first, which warms up."""
    times: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for index in track(range(rounds + 1), f"{number} at a time"):
        for side in SIDES:
            with _evaluation(url) if side == "beside" else nullcontext():
                found = asyncio.run(_round(url, number, index))
            times[side] += found if index else []
    sides = {side: _told(found, number) for side, found in times.items()}
    ratios = {key: sides["beside"][key] / sides["alone"][key] for key in sides["alone"]}
    return {"at_a_time": number, **sides, "ratios": ratios}


@contextmanager
def _evaluation(url: str) -> Iterator[None]:
    """An evaluation that has answered rows already, cancelled at the end."""
    rows = [{"prompt": f"Write {1000 + i} in words.", "target": "one"} for i in range(ROWS)]
    with Client(url) as client:
        begun = client.start_evaluation(["number-words"], [{"rows": rows}], ["exact_match"])
        while not client.evaluation(begun.id).rows_done:
            time.sleep(0.05)
        try:
            yield
            assert not client.evaluation(begun.id).has_ended, "it was over before the round was"
        finally:
            client.cancel_evaluation(begun.id)


async def _round(url: str, number: int, seed: int) -> list[list[float]]:
    """When each of `number` requests began and had its tokens, one behind the other four times."""
    source = random.Random(seed)
    async with AsyncClient(url) as client:
        base = next(model.id for model in await client.models() if model.parent is None)
        found = await asyncio.gather(*(_client(client, base, source) for _ in range(number)))
    return [times for each in found for times in each]


async def _client(client: AsyncClient, model: str, source: random.Random) -> list[list[float]]:
    return [await _request(client, model, source) for _ in range(4)]


async def _request(client: AsyncClient, model: str, source: random.Random) -> list[float]:
    prompt = [source.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)]
    times = [time.perf_counter()]
    stream = client.stream(
        prompt, model=model, max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, logprobs=0
    )
    async for _ in stream:
        times.append(time.perf_counter())
    return times


def _told(requests: Sequence[Sequence[float]], number: int) -> dict[str, float]:
    """Milliseconds, and tokens a second of all clients."""
    first = [1e3 * (times[1] - times[0]) for times in requests]
    between = [1e3 * (b - a) for times in requests for a, b in pairwise(times[1:])]
    seconds = sum(times[-1] - times[0] for times in requests) / number
    return {
        "first_median": median(first),
        "first_p95": quantiles(first, n=20)[-1],
        "between_median": median(between),
        "between_p99": quantiles(between, n=100)[-1],
        "tokens_per_s": NEW_TOKENS * len(requests) / seconds,
    }


def _show(results: Sequence[dict[str, Any]]) -> None:
    table = Table("", *HEAD)
    for result in results:
        for side in (*SIDES, "ratios"):
            table.add_row(side, str(result["at_a_time"]), *_cells(result[side], side))
    Console().print(table)


def _cells(told: dict[str, float], side: str) -> list[str]:
    form = "{:.2f}" if side == "ratios" else "{:.0f}"
    first_median, first_p95, median_, p99, rate = (form.format(value) for value in told.values())
    return [f"{first_median} / {first_p95}", f"{median_} / {p99}", rate]


if __name__ == "__main__":
    main()

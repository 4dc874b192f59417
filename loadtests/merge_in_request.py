"""The first use of a 20-way merge in a request: what it waits for, and what others notice.

    python -m loadtests.merge_in_request [--members 20] [--keep-ratio 0.1] [--trials 5]

The demo adapters and seeded synthetic ones on the demo base's shapes are merged by requests, each
trial by other weights, so that each is a merge of its own. The time to the first token is held
against the time that the server says the merge took, and against the same request again, warm.
Then streams run with and without such requests beside them, in turn. The last line is JSON.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.servers import running_server
from loadtests.shira import shira_zip

EXAMPLES = Path(__file__).parents[1] / "examples" / "adapters"
TIMEOUT_S = 300.0
STREAMS, STREAM_TOKENS = 8, 64

Result = dict[str, Any]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as directory, _server(options, Path(directory)) as http:
        names = _publish(http, options)
        _first_token_s(http, _merge_of(names, 0))  # connections, and code that is made once
        trials = [_trial(http, names, number) for number in tqdm(range(1, options.trials + 1))]
        rates = asyncio.run(_rates(str(http.base_url), names, options.trials))
    result = {name: median(trial[name] for trial in trials) for name in trials[0]} | rates
    _show(result)
    print(json.dumps({"members": len(names), "keep_ratio": options.keep_ratio, **result}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("--members", type=int, default=20)
    add("--keep-ratio", type=float, default=0.1, help="of the synthetic adapters' QKV layers")
    add("--trials", type=int, default=5)
    add("--base-model", type=Path, default=Path("data/demo-base"))
    return parser.parse_args()


def _publish(http: httpx.Client, options: argparse.Namespace) -> list[str]:
    """Upload synthetic adapters beside the demo's; all names."""
    names = sorted(path.stem for path in EXAMPLES.glob("*.safetensors"))[: options.members]
    config = json.loads((options.base_model / "config.json").read_text())
    for seed in tqdm(range(len(names), options.members), "uploads"):
        file = shira_zip(seed, config, options.keep_ratio)
        form = {"name": f"synthetic-{seed}"}
        http.post("/v1/adapters", data=form, files={"file": file}).raise_for_status()
        names.append(form["name"])
    return names


def _trial(http: httpx.Client, names: Sequence[str], number: int) -> Result:
    """One merge that no request has asked for before, cold and warm."""
    fields = _merge_of(names, number)
    before = _merge_seconds(http)
    first = _first_token_s(http, fields)
    merge = _merge_seconds(http) - before
    warm = median(_first_token_s(http, fields) for _ in range(5))
    return {"first_s": first, "merge_s": merge, "warm_s": warm}


def _merge_of(names: Sequence[str], number: int) -> Result:
    """A request's fields: weights that are no other number's."""
    adapters = [{"id": name, "weight": 1 + number / 64} for name in names]
    return {"adapters": adapters, "prompt": "The capital of France is", "temperature": 0}


def _first_token_s(http: httpx.Client, fields: Mapping[str, Any]) -> float:
    body = {**fields, "max_tokens": 1, "cache_salt": str(time.perf_counter())}
    started = time.perf_counter()
    http.post("/v1/completions", json=body).raise_for_status()
    return time.perf_counter() - started


def _merge_seconds(http: httpx.Client) -> float:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return next(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "intarsia_merge_seconds_total"
    )


async def _rates(url: str, names: Sequence[str], rounds: int) -> Result:
    """Tokens per second of streams, alone and beside merges, in turn."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        for number in tqdm(range(2 * rounds), "streams"):
            has_merges = number % 2 == 1
            streams = asyncio.gather(*(_stream(http, names[n % 4]) for n in range(STREAMS)))
            merging = asyncio.create_task(_keep_merging(http, names, 100 * number, has_merges))
            spans = await streams
            merging.cancel()
            rates[has_merges].append(sum(STREAM_TOKENS / span for span in spans))
    return {"alone_tok_s": median(rates[False]), "beside_tok_s": median(rates[True])}


async def _stream(http: httpx.AsyncClient, model: str) -> float:
    """Seconds from the first token to the last."""
    body = {"model": model, "prompt": "Once", "max_tokens": STREAM_TOKENS + 1, "stream": True}
    body |= {"ignore_eos": True, "logprobs": 0, "cache_salt": str(time.perf_counter())}
    times: list[float] = []
    async with http.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return times[-1] - times[0]


async def _keep_merging(
    http: httpx.AsyncClient, names: Sequence[str], first: int, has_merges: bool
) -> None:
    """One new merge after the other, until cancelled."""
    number = first
    while has_merges:
        number += 1
        body = {**_merge_of(names, number), "max_tokens": 1}
        (await http.post("/v1/completions", json=body)).raise_for_status()


def _show(result: Mapping[str, float]) -> None:
    table = Table("what", "value", title="a new merge in a request")
    extra = result["first_s"] - result["merge_s"] - result["warm_s"]
    rows = {
        "first token of a new merge": f"{1000 * result['first_s']:.0f} ms",
        "of that, the merge": f"{1000 * result['merge_s']:.0f} ms",
        "first token, merge at hand": f"{1000 * result['warm_s']:.0f} ms",
        "beyond both": f"{1000 * extra:.0f} ms",
        "streams alone": f"{result['alone_tok_s']:.1f} tok/s",
        "streams beside merges": f"{result['beside_tok_s']:.1f} tok/s, "
        f"{result['beside_tok_s'] / result['alone_tok_s']:.0%}",
    }
    for row in rows.items():
        table.add_row(*row)
    Console().print(table)


@contextmanager
def _server(options: argparse.Namespace, data: Path) -> Iterator[httpx.Client]:
    flags = ("--base-model", str(options.base_model), "--data-dir", str(data), "--device", "cpu")
    with (
        running_server(data / "server.log", *flags, "--publish-dir", str(EXAMPLES)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT_S) as http,
    ):
        yield http


if __name__ == "__main__":
    main()

"""Many adapters through a device budget that holds few: does anything stay behind?

    python -m loadtests.adapter_churn [--adapters 200] [--resident 8] [--requests 5000]

Requests of the adapters in a shuffled order, from several clients at once, against a server whose
device holds `--resident` of them. Prints the server's bytes by tier and its resident set size as
it goes, and at the end, when every adapter is deleted. The last line is JSON.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.servers import running_server
from loadtests.small_adapters import name_of, upload_all

TIMEOUT_S = 120.0
RANK = 64  # of the adapters: 0.3 MB each on the demo base
CLIENTS = 16
SAMPLES = 10  # rows of the table on the way
COLUMNS = ("requests", "device_bytes", "host_bytes", "lent_pages", "pins", "waiting", "rss_mib")

Sample = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        num_bytes = _device_bytes(options.base_model, data / "probe")
        flags = ("--max-adapter-bytes-device", str(options.resident * num_bytes))
        with _server(options.base_model, data / "full", *flags) as http:
            samples = _cycled(http, options)
    _show(samples)
    print(json.dumps({"adapter_device_bytes": num_bytes, "samples": samples}))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("--adapters", type=int, default=200)
    add("--resident", type=int, default=8, help="how many the device holds")
    add("--requests", type=int, default=5000)
    add("--base-model", type=Path, default=Path("data/demo-base"))
    return parser.parse_args(arguments)


def _device_bytes(base: Path, data: Path) -> int:
    """Bytes of one adapter on the device: asked of a server that has used it."""
    with _server(base, data) as http:
        _upload(http, base, 1)
        _ask(http, name_of(0))
        held: int = http.get(f"/v1/adapters/{name_of(0)}").json()["memory"]["bytes"]["device"]
        return held


def _cycled(http: httpx.Client, options: argparse.Namespace) -> list[Sample]:
    """Samples from before the first request to after the last deletion."""
    _upload(http, options.base_model, options.adapters)
    samples = [_sample(http, 0)]
    order = _order(options.adapters, options.requests)
    step = -(-len(order) // SAMPLES)
    with ThreadPoolExecutor(CLIENTS) as pool, tqdm(total=len(order), unit=" requests") as bar:
        for start in range(0, len(order), step):
            for _ in pool.map(lambda number: _ask(http, name_of(number)), order[start:][:step]):
                bar.update()
            samples.append(_sample(http, bar.n))
        list(pool.map(lambda number: _delete(http, name_of(number)), range(options.adapters)))
    return [*samples, {**_sample(http, len(order)), "requests": "deleted"}]


def _order(num_adapters: int, num_requests: int) -> list[int]:
    """Every adapter as often as any other, shuffled with a fixed seed."""
    order = [index % num_adapters for index in range(num_requests)]
    random.Random(0).shuffle(order)
    return order


def _upload(http: httpx.Client, base: Path, count: int) -> None:
    hidden_size = json.loads((base / "config.json").read_text())["hidden_size"]
    upload_all(http, range(count), hidden_size, rank=RANK)


def _ask(http: httpx.Client, model: str) -> None:
    body = {"model": model, "prompt": "x", "max_tokens": 1, "temperature": 0}
    http.post("/v1/completions", json=body).raise_for_status()


def _delete(http: httpx.Client, name: str) -> None:
    gone = http.delete(f"/v1/adapters/{name}").raise_for_status().json()
    assert gone["state"] == "gone", gone


def _sample(http: httpx.Client, requests: int) -> Sample:
    page = http.get("/metrics").text
    samples = [
        sample for family in text_string_to_metric_families(page) for sample in family.samples
    ]
    value = {(sample.name, sample.labels.get("tier")): sample.value for sample in samples}
    return {
        "requests": requests,
        "device_bytes": int(value["intarsia_adapter_bytes", "device"]),
        "host_bytes": int(value["intarsia_adapter_bytes", "host"]),
        "lent_pages": int(value["intarsia_kv_pages_lent", None]),
        "pins": int(value["intarsia_adapter_pins", None]),
        "waiting": int(value["intarsia_adapter_waiting", None]),
        "rss_mib": round(value["process_resident_memory_bytes", None] / 2**20, 1),
    }


def _show(samples: Iterable[Sample]) -> None:
    table = Table("requests", *COLUMNS[1:])
    for sample in samples:
        table.add_row(
            *(
                f"{sample[column]:,}" if column != "requests" else str(sample[column])
                for column in COLUMNS
            )
        )
    Console().print(table)


@contextmanager
def _server(base: Path, data: Path, *flags: str) -> Iterator[httpx.Client]:
    """A client of a fresh server over `data`."""
    data.mkdir()
    flags = ("--base-model", str(base), "--data-dir", str(data), "--device", "cpu", *flags)
    with (
        running_server(data / "server.log", *flags) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT_S) as http,
    ):
        yield http


if __name__ == "__main__":
    main()

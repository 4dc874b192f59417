"""How long until a server is ready, and what its first requests wait for.

    python -m loadtests.startup [--starts 3] [--base-model data/demo-base] [--import-profile]

Starts a server of a converted base on a data folder where nothing is kept (no compiled code, no
digests, no adapters), then `--starts` times on what that one left. Each is asked ten short chats,
sampled, then an adapter two more. Medians over the starts are printed, with the ratio of the first
request to the tenth; the last line is JSON. `--import-profile` names what the imports cost too.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from loadtests.servers import free_port, running

TIMEOUT_S = 120.0
REQUESTS = 10
TOKENS = 8  # of each answer
CPU_SECONDS = "process_cpu_seconds_total"
SHOWN_PACKAGES = 15
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +([\w.]+)")


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds to readiness and of the requests that followed, in their order."""

    ready_s: float
    cpu_s: float  # of all threads, until then
    chats_s: Sequence[float]
    adapter_s: Sequence[float]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        first = measured_start(options.base_model, options.adapters, data)
        again = [
            measured_start(options.base_model, options.adapters, data)
            for _ in range(options.starts)
        ]
    Console().print(table_of({"nothing kept": [first], "kept": again}))
    if options.import_profile:
        _show_imports()
    print(json.dumps({"nothing kept": [asdict(first)], "kept": [asdict(one) for one in again]}))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("--starts", type=int, default=3, help="on what the first one left")
    add("--base-model", type=Path, default=Path("data/demo-base"))
    add("--adapters", type=Path, default=Path("examples/adapters"), help="a folder to publish")
    add("--import-profile", action="store_true")
    return parser.parse_args(arguments)


def measured_start(base: Path, adapters: Path, data: Path) -> Start:
    """A server over `data`, which keeps its compiled code there too."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--base-model", str(base), "--data-dir", str(data), "--publish-dir", str(adapters)),
        *("--device", "cpu"),
    ]
    kept = {"NUMBA_CACHE_DIR": str(data / "compiled")}
    began = time.perf_counter()
    with (
        running(command, port, data / "server.log", environment=kept) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT_S) as http,
    ):
        ready_s = time.perf_counter() - began
        cpu_s = _cpu_seconds(http)
        served = [model["id"] for model in http.get("/v1/models").json()["data"]]
        chats = [_chat(http, served[0], number) for number in range(REQUESTS)]
        adapted = [_chat(http, model, REQUESTS) for model in served[1:2] for _ in range(2)]
    return Start(ready_s, cpu_s, chats, adapted)


def _chat(http: httpx.Client, model: str, number: int) -> float:
    """Seconds of one short chat, as many tokens each time and no prompt twice."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"How many are {number} and {number}?"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": number,
    }
    began = time.perf_counter()
    http.post("/v1/chat/completions", json=body).raise_for_status()
    return time.perf_counter() - began


def _cpu_seconds(http: httpx.Client) -> float:
    families = text_string_to_metric_families(http.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return next(sample.value for sample in samples if sample.name == CPU_SECONDS)


def table_of(starts: Mapping[str, Sequence[Start]]) -> Table:
    """A row to each state that servers were started in: medians over its starts."""
    table = Table(
        *("before", "starts", "ready s", "CPU s", "first ms", "tenth ms", "first / tenth"),
        *("adapter: first ms", "second ms"),
    )
    for state, own in starts.items():
        tenth = _median_ms(start.chats_s[-1] for start in own)
        first = _median_ms(start.chats_s[0] for start in own)
        adapted = [
            f"{_median_ms(start.adapter_s[at] for start in own):.0f}" if own[0].adapter_s else ""
            for at in range(2)
        ]
        table.add_row(
            *(state, str(len(own))),
            f"{median(start.ready_s for start in own):.1f}",
            f"{median(start.cpu_s for start in own):.1f}",
            *(f"{first:.0f}", f"{tenth:.0f}", f"{first / tenth:.2f}"),
            *adapted,
        )
    return table


def _median_ms(seconds: Iterable[float]) -> float:
    return 1e3 * median(seconds)


def _show_imports() -> None:
    """The packages whose own modules take longest, of all that a server imports."""
    command = [sys.executable, "-X", "importtime", "-c", "import server.cli, server.app"]
    spent = import_times(subprocess.run(command, capture_output=True, text=True, check=True).stderr)
    table = Table("package", "import ms")
    for package, microseconds in spent.most_common(SHOWN_PACKAGES):
        table.add_row(package, f"{microseconds / 1e3:.0f}")
    table.add_row("all", f"{spent.total() / 1e3:.0f}")
    Console().print(table)


def import_times(output: str) -> Counter[str]:
    """Microseconds by package, of what `python -X importtime` printed."""
    spent: Counter[str] = Counter()
    for line in output.splitlines():
        if (found := IMPORT_LINE.match(line)) is not None:
            spent[found[2].partition(".")[0]] += int(found[1])
    return spent


if __name__ == "__main__":
    main()

"""Phi-3-mini at its real size, with drawn weights, served on this machine: memory, times, tokens.

    python -m loadtests.real_size DIRECTORY [--tokens 8] [--keep-ratio 0.01] [--layers 32]

Writes a checkpoint of bf16 (7.6 GB; what is there already is kept) into DIRECTORY and starts the
server on it twice: first it makes the base's digests, then it reads them. The second one is sent an
adapter that changes `--keep-ratio` of every QKV layer, and asked by base and adapter in both modes.
Fails unless the base's tokens and their log-probabilities are the same before the adapter is fused
and after it is undone, which its deletion does.
Memory is the server's, by Linux. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from loadtests.real_size.checkpoint import PHI3_MINI_4K, write_checkpoint
from loadtests.real_size.serving import Memory, ask, memory_of
from loadtests.servers import free_port, running_process
from loadtests.shira import shira_zip

TIMEOUT_S = 600.0
ADAPTER = "full-width"
BASE, UNDONE = "base", "base, adapter deleted"
BATCHED, FUSED = "batched", "fused"
QUESTIONS = (  # (name, model, mode), in this order
    (BASE, BASE, BATCHED),
    ("adapter, batched", ADAPTER, BATCHED),
    ("adapter, switched to", ADAPTER, FUSED),
    ("adapter, fused", ADAPTER, FUSED),
    ("base beside it", BASE, BATCHED),
)
MIB = 1 << 20

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    config = {**PHI3_MINI_4K, "num_hidden_layers": options.layers}
    began = time.perf_counter()
    weights = write_checkpoint(options.directory, config)
    written_s = time.perf_counter() - began
    result = measured(options.directory, config, options.keep_ratio, options.tokens)
    result |= {"weights": weights, "written_s": written_s}
    show(result)
    print(json.dumps(result))
    if faults := faults_of(result):
        sys.exit("; ".join(faults))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directory", type=Path, help="for the checkpoint, which stays; new or begun by this")
    add("--tokens", type=int, default=8, help="of each answer")
    add("--keep-ratio", type=float, default=0.01, help="of the adapter's layers")
    add("--layers", type=int, default=PHI3_MINI_4K["num_hidden_layers"])
    return parser.parse_args(arguments)


def measured(base: Path, config: Mapping[str, Any], keep_ratio: float, tokens: int) -> Result:
    """Both starts, and what the second server answers."""
    with tempfile.TemporaryDirectory() as directory:
        data, memory = Path(directory), {}
        with _server(base, data) as (_, pid, first_s):
            memory["first start"] = memory_of(pid)
        with _server(base, data) as (http, pid, again_s):
            memory["start"] = memory_of(pid)
            _publish(http, config, keep_ratio)
            memory["adapter published"] = memory_of(pid)
            answers = {}
            for name, model, mode in QUESTIONS:
                answers[name] = ask(http, model, mode, tokens)
                memory[name] = memory_of(pid)
            held = http.get(f"/v1/adapters/{ADAPTER}").raise_for_status().json()["memory"]["bytes"]
            http.delete(f"/v1/adapters/{ADAPTER}").raise_for_status()  # which undoes it first
            answers[UNDONE] = ask(http, BASE, BATCHED, tokens)
            memory[UNDONE] = memory_of(pid)
    return {
        "first_start_s": first_s,
        "start_s": again_s,
        "memory": {name: asdict(own) for name, own in memory.items()},
        "answers": {name: asdict(own) for name, own in answers.items()},
        "adapter": held,
    }


@contextmanager
def _server(base: Path, data: Path) -> Iterator[tuple[httpx.Client, int, float]]:
    """A client of a server over `data`, its process, and the seconds until it was ready."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--base-model", str(base), "--served-model-name", BASE, "--data-dir", str(data)),
        *("--device", "cpu", "--dtype", "bfloat16", "--mode", "auto"),
    ]
    began = time.perf_counter()
    with (
        running_process(command, port, data / "server.log") as (url, pid),
        httpx.Client(base_url=url, timeout=TIMEOUT_S) as http,
    ):
        yield http, pid, time.perf_counter() - began


def _publish(http: httpx.Client, config: Mapping[str, Any], keep_ratio: float) -> None:
    file = shira_zip(0, config, keep_ratio)
    answer = http.post("/v1/adapters", data={"name": ADAPTER}, files={"file": file})
    answer.raise_for_status()


def faults_of(result: Result) -> list[str]:
    """What must not be."""
    said = {name: (own["tokens"], own["logprobs"]) for name, own in result["answers"].items()}
    faults = []
    if said[UNDONE] != said[BASE]:
        faults.append(f"{UNDONE}: {said[UNDONE]} instead of {said[BASE]}")
    if said["adapter, batched"] == said[BASE]:
        faults.append("the adapter changes nothing")
    if said["adapter, fused"] == said["adapter, batched"]:
        faults.append("nothing was fused: sums are the same to the bit")
    return faults


def show(result: Result) -> None:
    """Tables of memory and of answers."""
    Console().print(_memory_table(result), _answer_table(result))


def _memory_table(result: Result) -> Table:
    weights, held = result["weights"], result["adapter"]
    title = (
        f"{weights / MIB:,.0f} MiB of weights, written in {result['written_s']:.0f} s; "
        f"adapter: {held['device'] / MIB:,.0f} MiB on the device, {held['host'] / MIB:,.0f} beside"
    )
    table = Table("after", "peak MiB", "of the weights", "private MiB", "of files MiB", title=title)
    for name, own in result["memory"].items():
        memory = Memory(**own)
        table.add_row(
            *(name, f"{memory.peak / MIB:,.0f}", f"{memory.peak / weights:.2f}"),
            *(f"{memory.private / MIB:,.0f}", f"{memory.mapped / MIB:,.0f}"),
        )
    return table


def _answer_table(result: Result) -> Table:
    title = f"ready in {result['first_start_s']:.0f} s, again in {result['start_s']:.0f} s"
    columns = ("asked", "first token s", "each further s", "CPU s of all", "as the base's")
    table = Table(*columns, title=title)
    base = result["answers"][BASE]["tokens"]
    for name, answer in result["answers"].items():
        same = sum(own == other for own, other in zip(answer["tokens"], base, strict=True))
        times = (answer["first_s"], answer["per_token_s"], answer["cpu_s"])
        table.add_row(name, *(f"{seconds:.2f}" for seconds in times), f"{same} of {len(base)}")
    return table


if __name__ == "__main__":
    main()

"""Merging 20 adapters on Phi-3-mini shapes: time and peak memory of ours and of dense merges.

    python -m loadtests.micro.merging [--layers 32] [--members 20] [--threads 1] [--mergekit PYTHON]

Layers are made one by one, so that any number of them fits. `ours` merges what is in memory, as
`torch` does; `ours, files` reads and verifies files too. Every dense sum is compared with ours.
The last line is JSON.
"""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from adapters_store import files
from adapters_store.adapter import BlockDelta, SparseAdapter, WeightDelta
from adapters_store.merging.layer import LayerInput, merge_layer
from adapters_store.merging.merge import merge
from adapters_store.merging.reader import FileReader
from adapters_store.merging.recipe import Recipe
from adapters_store.merging.table import resolve_parameters
from loadtests.micro import dense_torch
from loadtests.micro.layers import KINDS, LAYER, SHAPE, make_layer
from loadtests.micro.measuring import Measured, measure

KEEP_RATIOS = (0.1, 0.01)
OURS: Mapping[str, Mapping[str, object]] = {
    "task_arithmetic": {},
    "ties": {"density": 0.2, "density_of": "numel", "divisor": "weights"},
}  # as in_mergekit.py has them
TOLERANCE = {torch.float64: 0.0, torch.float32: 1e-5}
MIB = 1 << 20

Result = Measured[str | None]  # the form of the result, where it is ours
Found = dict[str, list[Result]]  # what was measured -> one measurement for each layer


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    _ours("overlap_average", make_layer("element", 1e-4, 2, 0))  # compiles what is not cached
    cases = [(kind, ratio) for kind in KINDS for ratio in KEEP_RATIOS]
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(cases) * arguments.layers, unit="layer") as progress:
        for kind, ratio in cases:
            found: Found = defaultdict(list)
            for layer in range(arguments.layers):
                _measure_layer(make_layer(kind, ratio, arguments.members, layer), found)
                progress.update()
            rows += _rows(kind, ratio, found)
    if arguments.mergekit:
        rows += [row for ratio in KEEP_RATIOS for row in _against_mergekit(arguments, ratio)]
    Console().print(_table(rows))
    told = {name: getattr(arguments, name) for name in ("layers", "members", "threads")}
    print(json.dumps({**told, "shape": SHAPE, "results": rows}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of mergekit")
    parser.add_argument("--mergekit", help="interpreter that has mergekit, for what it can merge")
    return parser.parse_args()


def _measure_layer(deltas: Sequence[WeightDelta], found: Found) -> None:
    ours = measure(partial(_ours, "overlap_average", deltas))
    merged = ours.result.dense()
    found["ours"].append(Measured(ours.result.kind, ours.seconds, ours.peak_bytes))
    for name, dense_merge in _dense_merges(deltas).items():
        for dtype, tolerance in TOLERANCE.items():
            dense = measure(partial(dense_merge, dtype))
            largest = float((dense.result - merged).abs().max())
            assert largest <= tolerance, f"{name}, {dtype}: {largest} apart"
            label = f"{name}, {str(dtype).removeprefix('torch.')}"
            found[label].append(Measured(None, dense.seconds, dense.peak_bytes))
    found["ours, files"].append(_from_files(deltas))


def _dense_merges(deltas: Sequence[WeightDelta]) -> dict[str, Callable[[torch.dtype], Tensor]]:
    merges: dict[str, Callable[[torch.dtype], Tensor]] = {
        "torch scatter-add": partial(dense_torch.scatter_add, deltas)
    }
    tiles = [delta for delta in deltas if isinstance(delta, BlockDelta)]
    if tiles:
        merges["torch index-add of tiles"] = partial(dense_torch.add_tiles, tiles)
    return merges


def _ours(method: str, deltas: Sequence[WeightDelta]) -> WeightDelta:
    parameters = resolve_parameters(method, OURS.get(method, {}))
    inputs = [LayerInput(f"{i:04}", 1.0, delta) for i, delta in enumerate(deltas)]
    merged = merge_layer(method, parameters, inputs, layer=LAYER, shape=SHAPE)
    assert merged is not None
    return merged


def _from_files(deltas: Sequence[WeightDelta]) -> Result:
    """One adapter with one layer in each file."""
    adapters = [SparseAdapter("base", {LAYER: "sha256:" + "0" * 64}, (d,)) for d in deltas]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        paths = [Path(directory) / str(number) for number in range(len(adapters))]
        for adapter, path in zip(adapters, paths, strict=True):
            files.write(adapter, path)
        readers = {r.digest: r for r in (stack.enter_context(FileReader.open(p)) for p in paths)}
        recipe = Recipe.build("overlap_average", {}, [(digest, 1.0) for digest in readers])
        return measure(lambda: merge(recipe, readers).deltas[0].kind)


def _against_mergekit(arguments: argparse.Namespace, ratio: float) -> list[dict[str, Any]]:
    """One layer by each method that both have."""
    deltas = make_layer("element", ratio, arguments.members, 0)
    rows = []
    for method in OURS:
        ours = measure(partial(_ours, method, deltas))
        own: Result = Measured(ours.result.kind, ours.seconds, ours.peak_bytes)
        theirs = _run_mergekit(arguments, method, ratio)
        found: Found = {f"ours, {method}": [own], f"mergekit, {method}": [theirs]}
        rows += _rows("element", ratio, found)
    return rows


def _run_mergekit(arguments: argparse.Namespace, method: str, ratio: float) -> Result:
    script = Path(__file__).with_name("in_mergekit.py")
    values = (method, arguments.members, ratio, *SHAPE, arguments.threads)
    command = [arguments.mergekit, str(script), *map(str, values)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = json.loads(output.splitlines()[-1])
    return Measured(None, told["seconds"], told["peak_bytes"])


def _rows(kind: str, ratio: float, found: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """The first of what was found is what the others are compared with."""
    seconds = {name: sum(layer.seconds for layer in layers) for name, layers in found.items()}
    ours = next(iter(seconds.values()))
    return [
        {
            "kind": kind,
            "keep_ratio": ratio,
            "what": name,
            "seconds": seconds[name],
            "times_ours": seconds[name] / ours,
            "peak_mib": max(layer.peak_bytes for layer in layers) / MIB,
            "form": layers[0].result,
        }
        for name, layers in found.items()
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("kind", "keep ratio", "what", "seconds", "x ours", "peak MiB", box=None)
    for row in rows:
        if row["times_ours"] == 1 and row is not rows[0]:
            table.add_section()
        numbers = f"{row['seconds']:.3f}", f"{row['times_ours']:.2f}", f"{row['peak_mib']:.0f}"
        table.add_row(row["kind"], str(row["keep_ratio"]), row["what"], *numbers)
    return table


if __name__ == "__main__":
    main()

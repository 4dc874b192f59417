"""An adapter that no tier holds, from its file to operands: beside reading and verifying it alone.

    python -m loadtests.micro.cold_load [--layers 32] [--keep-ratio 0.01] [--repeats 5]

A fabricated adapter of Phi-3-mini's qkv_proj, 9216 x 3072 in every layer, 16-bit values. Its file
is in the page cache, so that reading is as fast as it can be and all else weighs the most. Each
repeat does in turn: `read`, the file's bytes; `verify`, read as an adapter and its digest compared,
which no server may leave out; `check`, with every rule of form held against the base; and `load`,
what a request waits for: through the tiers of memory, up to operands that can be multiplied, by two
threads as in a server or by `one`. Medians of time, and of what processors spent on it, which says
more where others compute beside; the last line is JSON.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from adapters_store import files
from adapters_store.adapter import BaseIdentity, BaseLayer, ElementDelta, SparseAdapter
from adapters_store.blobs import read_verified
from adapters_store.each import Each, in_turn
from adapters_store.validation import Limits, check
from loadtests.micro.layers import SHAPE, element
from server.adapters.background import start_pool
from server.adapters.delta import make_resident
from server.adapters.device import DeviceAdapters
from server.adapters.host import HostAdapters
from server.adapters.memory import AdapterMemory
from server.adapters.sharing import share
from server.adapters.sources import StoredAdapter
from server.kernels.cpu.kernels import CpuKernels
from server.runtime import LOADERS

LIMITS = Limits(max_file_bytes=1 << 40, max_nnz=1 << 40)
PLENTY = 1 << 40
BASE_DIGEST = "sha256:" + 64 * "0"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file, and the base that it is checked against."""

    path: Path
    digest: str
    base: BaseIdentity

    def verify(self, each: Each = in_turn) -> SparseAdapter:
        return read_verified(self.path, self.digest, each)

    def check(self, each: Each = in_turn) -> SparseAdapter:
        """As a store loads it."""
        adapter = self.verify(each)
        check(adapter, self.base, LIMITS, each)
        return adapter


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as directory:
        stored = fabricate(Path(directory), arguments.layers, arguments.keep_ratio)
        num_bytes = stored.path.stat().st_size
        found = measure(stored, arguments.repeats)
    table = Table("what", "ms", "of verify", "GB/s", "CPU ms", "of verify")
    basis = found["verify"]
    for name, (ms, cpu) in found.items():
        own = f"{ms:.1f}", f"{ms / basis.ms:.2f}", f"{num_bytes / ms / 1e6:.2f}"
        table.add_row(name, *own, f"{cpu:.1f}", f"{cpu / basis.cpu_ms:.2f}")
    Console().print(table)
    ratio, spent = found["load"].ms / basis.ms, {name: cpu for name, (_, cpu) in found.items()}
    took = {name: ms for name, (ms, _) in found.items()}
    print(json.dumps({"bytes": num_bytes, "ms": took, "cpu_ms": spent, "load_over_verify": ratio}))


def fabricate(directory: Path, layers: int, keep_ratio: float) -> Stored:
    """A seeded adapter's file."""
    source = np.random.Generator(np.random.SFC64(0))
    names = sorted(f"model.layers.{index}.self_attn.qkv_proj" for index in range(layers))
    deltas = tuple(_delta(name, source, keep_ratio) for name in names)
    adapter = SparseAdapter("any", dict.fromkeys(names, BASE_DIGEST), deltas)
    path = directory / "adapter.safetensors"
    files.write(adapter, path)
    base = BaseIdentity("any", {name: BaseLayer(SHAPE, BASE_DIGEST) for name in names})
    return Stored(path, adapter.digest, base)


def _delta(name: str, source: np.random.Generator, keep_ratio: float) -> ElementDelta:
    own = element(source, keep_ratio)
    return ElementDelta(
        layer=name, shape=SHAPE, indices=own.indices, values=own.values.to(torch.bfloat16)
    )


class Spent(NamedTuple):
    """Medians."""

    ms: float
    cpu_ms: float  # of all threads together


def measure(stored: Stored, repeats: int) -> Mapping[str, Spent]:
    """What each way takes; they take turns."""
    pool = start_pool("adapters", LOADERS)
    ways: Mapping[str, Callable[[], object]] = {
        "read": stored.path.read_bytes,
        "verify": stored.verify,
        "check": stored.check,
        "load, one": lambda: load(stored, pool, in_turn),
        "load": lambda: load(stored, pool, partial(share, pool)),
    }
    times: dict[str, list[Spent]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter(), time.process_time()
            way()
            end = time.perf_counter(), time.process_time()
            times[name].append(Spent((end[0] - start[0]) * 1e3, (end[1] - start[1]) * 1e3))
    return {name: Spent(*map(median, zip(*own[1:], strict=True))) for name, own in times.items()}


def load(stored: Stored, pool: Executor, each: Each) -> None:
    """Through the tiers of memory, none of which has it."""
    host, device, kernels = HostAdapters(PLENTY), DeviceAdapters(PLENTY), CpuKernels()
    make = partial(make_resident, each=each)
    memory = AdapterMemory(host, device, kernels, pool, threading.RLock(), 1, make, each)
    source = StoredAdapter(stored.digest, lambda digest: stored.check(each), pool)
    memory.lease([source]).result().release()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--keep-ratio", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""One layer merged by mergekit on dense tensors, in whatever interpreter has mergekit.

    PYTHON loadtests/micro/in_mergekit.py METHOD MEMBERS KEEP_RATIO OUT IN THREADS

Imports nothing of this project. The last line is JSON: seconds, and bytes added at the peak.
"""

import json
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.registry import get

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "task_arithmetic": {"normalize": False},
    "ties": {"normalize": True, "density": 0.2},
}


def main() -> None:
    method, members, keep_ratio = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    shape, threads = (int(sys.argv[4]), int(sys.argv[5])), int(sys.argv[6])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tensors = [torch.randn(shape) * (torch.rand(shape) < keep_ratio) for _ in range(members)]
    group = TensorGroup.from_tensors([torch.zeros(shape), *tensors], base_index=0)
    before, start = _peak_bytes(), time.perf_counter()
    merge(method, group)
    print(
        json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": _peak_bytes() - before})
    )


def merge(method: str, group: TensorGroup) -> torch.Tensor:
    told = PARAMETERS[method]
    weights = {entry.id: 1.0 for entry in group.non_base}
    densities = {entry.id: told.get("density", 1.0) for entry in group.non_base}
    shared = {"int8_mask": False, "rescale": False, "lambda": 1.0, "normalize": told["normalize"]}
    merged: torch.Tensor = get(method).merge_group(
        group, weight=weights, density=densities, **shared
    )
    return merged


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()

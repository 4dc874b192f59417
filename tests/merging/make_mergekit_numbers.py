"""Writes `mergekit_numbers.json`: what mergekit 0.1.5 makes of three small deltas.

Run by hand, from the repository's root, in an environment that also has mergekit (its pins and
its many packages are no dependency of ours, not even of the tests):

    pip install --no-deps mergekit==0.1.5
    PYTHONPATH=.:tests python tests/merging/make_mergekit_numbers.py

mergekit draws with torch's generator; here its draws are replaced by ours, so that the numbers
can be compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from merge_members import LAYER
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.sce import sce_merge
from mergekit.merge_methods.slerp import slerp
from merging.dense_reference import draw
from torch import Tensor

SHAPE = (6, 8)
SEED = 7
DIGESTS = ("a", "b", "c")
WEIGHTS = (1.0, 0.5, 0.25)
TRIM = {"density": 0.5, "gamma": 0.1}
# Our method and parameters -> mergekit's method and parameters.
GENERAL: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("task_arithmetic", {"lambda": 0.5}, "task_arithmetic", {"lambda": 0.5}),
    ("ties", {"density": 0.5, "divisor": "weights"}, "ties", {"density": 0.5}),
    ("ties", {"density": 0.5, "divisor": "none"}, "ties", {"density": 0.5, "normalize": False}),
    ("breadcrumbs", TRIM, "breadcrumbs", TRIM),
    ("breadcrumbs_ties", {**TRIM, "divisor": "none"}, "breadcrumbs_ties", TRIM),
    # mergekit restores the l1 norm: compared without that, and lambda undoes our 1 / density.
    (
        "dare_linear",
        {"density": 0.5, "lambda": 0.5},
        "dare_linear",
        {"density": 0.5, "rescale": False},
    ),
    (
        "dare_ties",
        {"density": 0.5, "lambda": 0.5, "divisor": "none"},
        "dare_ties",
        {"density": 0.5, "rescale": False},
    ),
    (
        "della",
        {"density": 0.5, "epsilon": 0.2, "divisor": "weights"},
        "della",
        {"density": 0.5, "epsilon": 0.2},
    ),
    (
        "della",
        {"density": 0.5, "epsilon": 0.2, "divisor": "none"},
        "della",
        {"density": 0.5, "epsilon": 0.2, "normalize": False},
    ),
]


def deltas() -> list[Tensor]:
    source = torch.Generator().manual_seed(5)
    return [torch.randn(SHAPE, generator=source) for _ in DIGESTS]


def our_draws() -> Iterator[Tensor]:
    """53-bit draws of each member in turn, as shares of 1."""
    for digest in DIGESTS:
        draws = [draw(SEED, digest, LAYER, place) / 2**53 for place in range(SHAPE[0] * SHAPE[1])]
        yield torch.tensor(draws, dtype=torch.float64).view(SHAPE)


def general(name: str, told: dict[str, Any]) -> Tensor:
    """One of mergekit's generalised task arithmetics of the deltas, on a base of zeros."""
    method = registry.get(name)
    group = TensorGroup.from_tensors([torch.zeros(SHAPE), *deltas()], base_index=0)
    parameters = {p.name: p.default for p in method.spec.parameters} | told
    for key in ("density", "gamma", "epsilon"):
        parameters[key] = {i: parameters.get(key) for i in (1, 2, 3)}
    parameters["weight"] = dict(zip((1, 2, 3), WEIGHTS, strict=True))
    draws = our_draws()
    with mock.patch("torch.bernoulli", lambda p: (next(draws) < p).to(p.dtype)):
        merged: Tensor = method.merge_group(group, **parameters)
    return merged


def rows() -> Iterator[dict[str, Any]]:
    for method, ours, theirs, told in GENERAL:
        yield {"method": method, "parameters": ours, "values": general(theirs, told).tolist()}
    group = TensorGroup.from_tensors([torch.zeros(SHAPE), *deltas()], base_index=0)
    for share in (1.0, 0.4):
        merged = sce_merge.implementation(group, select_topk=share)
        yield {"method": "sce", "parameters": {"select_topk": share}, "values": merged.tolist()}
    first, second, _ = deltas()
    merged = slerp(torch.tensor([0.3]), first[None], second[None])[0]
    yield {"method": "slerp", "parameters": {"t": 0.3}, "values": merged.tolist()}


def numbers() -> dict[str, Any]:
    return {
        "shape": SHAPE,
        "seed": SEED,
        "digests": DIGESTS,
        "weights": WEIGHTS,
        "inputs": [delta.tolist() for delta in deltas()],
        "rows": list(rows()),
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("mergekit_numbers.json")
    path.write_text(json.dumps(numbers()) + "\n", encoding="utf-8")

"""Deltas in a mixed batch give what transformers gives with the deltas added to its weights."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from paged_runs import PagedRun
from tiny_models import VOCAB_SIZE
from torch import Tensor

from adapters_store.adapter import (
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from server.adapters.delta import make_resident, pair_tokens
from server.model.phi3 import Phi3

TOLERANCE = 2e-5  # of the largest logit
CHUNKS = (5, 1, 6, 12)  # tokens of each sequence, step by step
Shape = tuple[int, int]


def element(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    indices = torch.randperm(shape[0] * shape[1], generator=source)[:200].sort().values.int()
    values = torch.randn(200, generator=source) * 0.1
    return ElementDelta(layer=layer, shape=shape, indices=indices, values=values)


def block(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    tiles = torch.randperm(shape[0] * shape[1] // 64, generator=source)[:4].sort().values.int()
    values = torch.randn(4, 8, 8, generator=source) * 0.1
    return BlockDelta(layer=layer, shape=shape, block=(8, 8), block_index=tiles, values=values)


def low_rank(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    a, b = torch.randn(2, shape[1], generator=source), torch.randn(shape[0], 2, generator=source)
    return LowRankDelta(layer=layer, shape=shape, scale=0.02, a=a, b=b)


def dense(layer: str, shape: Shape, source: torch.Generator) -> WeightDelta:
    delta = torch.randn(shape, generator=source) * 0.02
    return DenseDelta(layer=layer, shape=shape, delta=delta)


def make_adapters(shapes: dict[str, Shape]) -> list[SparseAdapter]:
    """One of each kind; the first changes every layer, the others leave some alone."""
    source = torch.Generator().manual_seed(5)
    adapters = []
    for number, make in enumerate((element, block, low_rank, dense)):
        layers = [name for i, name in enumerate(shapes) if i % 3 != number - 1]
        deltas = tuple(make(name, shapes[name], source) for name in sorted(layers))
        adapters.append(SparseAdapter("base", dict.fromkeys(layers, ""), deltas))
    return adapters


Composition = Sequence[tuple[int, float]]  # adapter number, coefficient


def merged_logits(
    model: Any, adapters: Sequence[SparseAdapter], composition: Composition, token_ids: Tensor
) -> Tensor:
    merged = deepcopy(model)
    with torch.inference_mode():
        for number, coefficient in composition:
            for delta in adapters[number].deltas:
                merged.get_submodule(delta.layer).weight += coefficient * delta.dense()
        logits: Tensor = merged(token_ids[None], use_cache=False).logits[0]
    return logits


def test_mixed_batch_gives_each_sequence_the_logits_of_its_own_merge(
    tiny_model: Callable[[str], Phi3], transformers_model: Callable[[str], Any]
) -> None:
    model = tiny_model("phi3-medium")
    adapters = make_adapters(model.config.linear_shapes())
    resident = [make_resident(adapter.digest, adapter, model.kernels) for adapter in adapters]
    compositions: list[Composition] = [
        [(0, 1.0)],
        [],
        [(1, 1.0)],
        [(3, 0.5), (0, -0.7), (2, 1.5)],
        [(2, 1.0), (1, 0.25)],
    ]
    run, source = PagedRun(model), torch.Generator().manual_seed(6)
    num_sequences = len(compositions)
    tokens = torch.randint(VOCAB_SIZE, (num_sequences, sum(CHUNKS)), generator=source)
    sequences = [run.add(token_ids) for token_ids in tokens]
    members = [[(resident[number], c) for number, c in own] for own in compositions]
    steps = []
    for size in CHUNKS:
        rows = [(i * size, size, own) for i, own in enumerate(members)]
        steps.append(run.step([(sequence, size) for sequence in sequences], pair_tokens(rows)))
    logits = [torch.cat(chunks) for chunks in zip(*steps, strict=True)]
    for token_ids, composition, ours in zip(tokens, compositions, logits, strict=True):
        unmerged = transformers_model("phi3-medium")
        reference = merged_logits(unmerged, adapters, composition, token_ids)
        assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()

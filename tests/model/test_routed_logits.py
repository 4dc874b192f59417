"""Routed rows of a mixed batch get the logits of Arrow's definition, in transformers' model."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from paged_runs import PagedRun
from routed_reference import Arrow, route
from tiny_adapters import make_adapter
from tiny_models import VOCAB_SIZE
from torch import Tensor

from adapters_store.adapter import BaseIdentity, BaseLayer, SparseAdapter
from server.adapters.composition import ArrowRouter
from server.adapters.delta import TokenPairs, make_resident, pair_tokens
from server.adapters.prototypes import make_prototypes
from server.adapters.routing import Mixture, RoutedMember
from server.model.phi3 import Phi3

TOLERANCE = 2e-5  # of the largest logit
CHUNKS = (5, 1, 4)  # tokens of each sequence, step by step
Weights = Sequence[tuple[int, float]]  # adapter number, weight


def make_adapters(model: Phi3) -> list[SparseAdapter]:
    """One of each kind; each but the first leaves some layers alone; the last has biases only."""
    shapes = model.config.linear_shapes()
    base = BaseIdentity("base", {name: BaseLayer(shape, "") for name, shape in shapes.items()})
    kinds = ("element", "block 16x16", "low_rank", "dense", "bias")
    return [
        make_adapter(
            base,
            kind,
            number,
            [name for i, name in enumerate(shapes) if number == 0 or i % 3 != number % 3],
            spread=0.05 if kind in ("dense", "element") else 0.2,
        )
        for number, kind in enumerate(kinds)
    ]


def arrow_of(
    adapters: Sequence[SparseAdapter], weights: Weights, temperature: float, top_k: int | None
) -> tuple[ArrowRouter, list[tuple[SparseAdapter, float]]]:
    members = [(adapters[number], weight) for number, weight in weights]
    return ArrowRouter(temperature, top_k), sorted(members, key=lambda own: own[0].digest)


def mixture_of(router: ArrowRouter, members: Sequence[tuple[SparseAdapter, float]]) -> Mixture:
    return Mixture(
        router,
        tuple(
            RoutedMember(
                adapter.digest,
                {delta.layer for delta in adapter.deltas},
                make_prototypes(adapter).directions,
            )
            for adapter, _ in members
        ),
    )


Routed = tuple[ArrowRouter, list[tuple[SparseAdapter, float]]]


class Batch:
    """Sequences side by side, each with its own routed composition (None: the base)."""

    def __init__(self, model: Phi3, tokens: Tensor, compositions: Sequence[Routed | None]) -> None:
        self.run = PagedRun(model)
        self.sequences = [self.run.add(token_ids) for token_ids in tokens]
        self.mixtures = [own and mixture_of(*own) for own in compositions]
        self.members = [
            [(make_resident(a.digest, a, model.kernels), w) for a, w in own[1]] if own else []
            for own in compositions
        ]

    def logits(self, chunks: Sequence[int]) -> list[Tensor]:
        steps = []
        for size in chunks:
            chunk = [(sequence, size) for sequence in self.sequences]
            steps.append(self.run.step(chunk, self._pairs(size)))
        return [torch.cat(own) for own in zip(*steps, strict=True)]

    def _pairs(self, size: int) -> TokenPairs | None:
        pairs = pair_tokens([(i * size, size, own) for i, own in enumerate(self.members)])
        routed = [
            (mixture, range(i * size, (i + 1) * size))
            for i, mixture in enumerate(self.mixtures)
            if mixture is not None
        ]
        return None if pairs is None else pairs.with_routers(routed)


@pytest.fixture(params=["phi3-medium", "phi4-mini"])
def variation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_routed_sequences_get_the_logits_of_the_definition(
    variation: str, tiny_model: Callable[[str], Phi3], transformers_model: Callable[[str], Any]
) -> None:
    model = tiny_model(variation)
    adapters = make_adapters(model)
    compositions: list[Routed | None] = [
        arrow_of(adapters, [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)], 1.0, None),
        None,
        arrow_of(adapters, [(3, 0.5), (0, -0.7), (2, 1.5)], 0.2, 2),
        arrow_of(adapters, [(1, 1.0), (4, 2.0)], 3.0, 1),
        arrow_of(adapters, [(0, 1.0), (2, 1.0), (3, 1.0)], 0.5, 1),
    ]
    source = torch.Generator().manual_seed(6)
    tokens = torch.randint(VOCAB_SIZE, (len(compositions), sum(CHUNKS)), generator=source)
    found = Batch(model, tokens, compositions).logits(CHUNKS)
    whole = Batch(model, tokens, compositions).logits([sum(CHUNKS)])
    plain = Batch(model, tokens, [None] * len(compositions)).logits([sum(CHUNKS)])
    for i, composition in enumerate(compositions):
        reference = deepcopy(transformers_model(variation))
        if composition is not None:
            router, members = composition
            top_k = router.top_k or len(members)
            reference = route(reference, Arrow(members, router.temperature, top_k))
        with torch.inference_mode():
            expected = reference(tokens[i][None], use_cache=False).logits[0]
        limit = TOLERANCE * float(expected.abs().max())
        assert (found[i] - expected).abs().max() <= limit
        assert (whole[i] - expected).abs().max() <= limit
        assert composition is None or (plain[i] - expected).abs().max() > 100 * limit

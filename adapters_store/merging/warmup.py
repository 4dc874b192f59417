"""Makes the machine code of usual merges before somebody waits for it."""

import torch

from adapters_store.adapter import BlockDelta, ElementDelta, WeightDelta
from adapters_store.merging.layer import LayerInput, merge_layer
from adapters_store.merging.table import DEFAULT_METHOD, resolve_parameters

SHAPE = (32, 32)
USUAL = (DEFAULT_METHOD, "linear", "ties")


def warm_up() -> None:
    """Merge adapters of a few entries: takes a second or two where no code is kept on disk."""
    sparse, full = _element(torch.arange(4)), _element(torch.arange(1000))
    for first, second in ((sparse, sparse), (full, full), (_block(), _block()), (sparse, _block())):
        inputs = [LayerInput("a", 1.0, first), LayerInput("b", 0.5, second)]
        for method in USUAL:
            merge_layer(method, resolve_parameters(method, {}), inputs, layer="", shape=SHAPE)


def _element(places: torch.Tensor) -> WeightDelta:
    values = torch.ones(len(places))
    return ElementDelta(layer="", shape=SHAPE, scale=1.0, indices=places.int(), values=values)


def _block() -> WeightDelta:
    return BlockDelta(
        layer="",
        shape=SHAPE,
        scale=1.0,
        block=(16, 16),
        block_index=torch.tensor([1], dtype=torch.int32),
        values=torch.ones(1, 16, 16),
    )

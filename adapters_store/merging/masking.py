"""A delta seen through another adapter's mask: only the places that the other one may change.

Serving a merge through the mask of one of its members shows what the merge does to that member's
own places, and what it does elsewhere (arXiv 2507.07140, section 4.3).
"""

import torch
from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)


def through_mask(adapter: SparseAdapter, mask: SparseAdapter) -> SparseAdapter:
    """`adapter` where `mask` names places; full masks (low-rank, dense) let all of a layer through.

    A layer that `mask` leaves alone has no place, and a bias goes through where `mask` has one.
    """
    masks = {(delta.layer, isinstance(delta, BiasDelta)): delta for delta in mask.deltas}
    pairs = (
        (delta, masks.get((delta.layer, isinstance(delta, BiasDelta)))) for delta in adapter.deltas
    )
    kept = tuple(_seen(delta, through) for delta, through in pairs if through is not None)
    layers = {delta.layer for delta in kept}
    base = {layer: digest for layer, digest in adapter.base.items() if layer in layers}
    return SparseAdapter(adapter.base_name, base, kept, adapter.notes)


def _seen(delta: WeightDelta, mask: WeightDelta) -> WeightDelta:
    if isinstance(mask, LowRankDelta | DenseDelta | BiasDelta):
        return delta
    places = _places(mask)
    if isinstance(delta, ElementDelta | BlockDelta):
        indices, values = _entries(delta)
        is_seen = torch.isin(indices, places, assume_unique=True)
        return _element(delta, indices[is_seen], values[is_seen], delta.scale)
    return _element(delta, places, delta.dense().flatten()[places], 1.0)


def _entries(delta: ElementDelta | BlockDelta) -> tuple[Tensor, Tensor]:
    """Flat places, ascending, and the values there."""
    if isinstance(delta, ElementDelta):
        return delta.indices.long(), delta.values
    places = (delta.rows()[:, :, None] * delta.shape[1] + delta.columns()[:, None, :]).flatten()
    order = places.argsort()
    return places[order], delta.values.flatten()[order]


def _places(mask: WeightDelta) -> Tensor:
    assert isinstance(mask, ElementDelta | BlockDelta), f"{mask.kind} has no places of its own"
    return _entries(mask)[0]


def _element(delta: WeightDelta, places: Tensor, values: Tensor, scale: float) -> ElementDelta:
    is_wide = delta.shape[0] * delta.shape[1] > 2**31
    indices = places if is_wide else places.int()
    return ElementDelta(
        layer=delta.layer, shape=delta.shape, scale=scale, indices=indices, values=values
    )

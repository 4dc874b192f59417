"""From trained deltas to an adapter, and from an adapter back to where training goes on.

Adapters have logical names and rows; `Target` knows how a model's layers lie in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adapters_store.adapter import (
    BaseIdentity,
    BaseLayer,
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    SparseAdapter,
    WeightDelta,
)
from adapters_store.delta_rules import INT32_ENTRIES
from adapters_store.digest import base_layer_digest
from adapters_store.training.deltas import ELEMENT
from adapters_store.training.errors import NotATarget
from adapters_store.training.selection import tile_scores
from adapters_store.training.targets import Target
from adapters_store.training.trainable import TrainableDeltas


def loaded_base(name: str, targets: Sequence[Target]) -> BaseIdentity:
    """The identity of the targets as they are loaded.

    It is that of the checkpoint if the model was loaded in the dtype of the checkpoint or a wider
    one; a model that was rounded when loaded is another base.
    """
    layers = {
        target.name: BaseLayer(target.full_shape, base_layer_digest(target.full_weight()))
        for target in targets
    }
    return BaseIdentity(name, layers)


def to_adapter(
    deltas: TrainableDeltas, base: BaseIdentity, notes: Mapping[str, str]
) -> SparseAdapter:
    """What was trained, as an adapter of `base`: element or block deltas, fp32, on the CPU.

    Without a mask (full fine-tuning of the targets) they are dense. A layer that keeps nothing is
    absent. `notes` (lineage, configuration) travel with the file.
    """
    if deltas.selection is None:
        whole = zip(deltas.targets, deltas.dense_weights(), strict=True)
        found = [_dense_delta(*each) for each in whole]
    else:
        chosen = zip(deltas.targets, deltas.selection, deltas.values(), strict=True)
        found = [_sparse_delta(*each) for each in chosen if len(each[1])]
    ordered = tuple(sorted(found, key=lambda delta: (delta.layer, delta.kind)))
    digests = {delta.layer: base.layers[delta.layer].digest for delta in ordered}
    return SparseAdapter(base.name, digests, ordered, dict(notes))


def _dense_delta(target: Target, weight: Tensor) -> WeightDelta:
    full = torch.zeros(target.full_shape)
    full[target.rows] = weight.cpu().float()
    return DenseDelta(layer=target.name, shape=target.full_shape, delta=full)


def _sparse_delta(target: Target, tiles: Tensor, values: Tensor) -> WeightDelta:
    """`values` at `tiles` of the matrix, which lie elsewhere in the logical layer."""
    (height, _), per_row = target.block, target.grid[1]
    full_row = target.rows[tiles.cpu() // per_row * height] // height
    places = full_row * per_row + tiles.cpu() % per_row
    layer, shape, values = target.name, target.full_shape, values.cpu().float()
    if target.block == ELEMENT:
        indices = places if shape[0] * shape[1] > INT32_ENTRIES else places.to(torch.int32)
        return ElementDelta(layer=layer, shape=shape, indices=indices, values=values)
    return BlockDelta(
        layer=layer,
        shape=shape,
        block=target.block,
        block_index=places.to(torch.int32),
        values=values,
    )


def weights_of(adapter: SparseAdapter, targets: Sequence[Target]) -> list[Tensor]:
    """What `adapter` changes of each target's matrix, fp32; zeros where it has no layer.

    For `TrainableDeltas.start_dense` or `start_sparse`. Raises NotATarget where the adapter
    changes what is not trained: training on from it would lose that.
    """
    by_layer = {delta.layer: delta for delta in adapter.deltas if not isinstance(delta, BiasDelta)}
    _refuse_others(adapter, targets)
    return [
        by_layer[target.name].dense()[target.rows]
        if target.name in by_layer
        else torch.zeros(target.shape)
        for target in targets
    ]


def selection_of(adapter: SparseAdapter, targets: Sequence[Target]) -> list[Tensor]:
    """The places that `adapter` names, zeros included, as ids of the tiles that hold them."""
    masks = {delta.layer: _mask(delta) for delta in adapter.deltas}
    _refuse_others(adapter, targets)
    return [
        _touched_tiles(masks[target.name][target.rows], target)
        if target.name in masks
        else torch.empty(0, dtype=torch.int64)
        for target in targets
    ]


def _mask(delta: WeightDelta) -> Tensor:
    """Which entries `delta` names, `[out, in]` bool: those of its form with ones as values."""
    if isinstance(delta, ElementDelta | BlockDelta):
        ones = replace(delta, values=torch.ones_like(delta.values), scale=1.0)
        return ones.dense() != 0
    return torch.ones(delta.shape, dtype=torch.bool)


def _touched_tiles(mask: Tensor, target: Target) -> Tensor:
    return (tile_scores(mask.float(), target.block) > 0).reshape(-1).nonzero().flatten()


def _refuse_others(adapter: SparseAdapter, targets: Sequence[Target]) -> None:
    """Raise NotATarget for a layer, bias or row of `adapter` that `targets` do not hold."""
    by_name = {target.name: target for target in targets}
    for delta in adapter.deltas:
        target = by_name.get(delta.layer)
        if target is None or isinstance(delta, BiasDelta):
            raise NotATarget(delta.layer, delta.kind)
        untrained = _mask(delta)
        untrained[target.rows] = False
        if untrained.any():
            raise NotATarget(delta.layer, delta.kind)

"""An adapter as a PEFT SHiRA directory.

PEFT takes exactly r * (in + out) entries in every layer, with one r: the least that holds all is
chosen, and zeros at free places fill the rest. They come last, and the metadata says how many
entries are the adapter's own, so that our importer drops the padding (it would count as part of the
mask in averages).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapters_store.adapter import BlockDelta, ElementDelta, SparseAdapter, WeightDelta
from adapters_store.canonical import canonical_json
from adapters_store.errors import AdapterRefused
from adapters_store.exporters.peft_files import (
    common_config,
    refuse_other_kinds,
    write_directory,
)
from adapters_store.importers.peft_shira import INDICES, OWN_COUNTS, WEIGHT

KINDS = (ElementDelta.kind, BlockDelta.kind)


def write_shira(adapter: SparseAdapter, directory: Path) -> int:
    """Write the directory, and answer its r. AdapterRefused names what SHiRA cannot hold."""
    refuse_other_kinds(adapter, "SHiRA", KINDS)
    rank = _rank(adapter.deltas)
    tensors: dict[str, Tensor] = {}
    for delta in adapter.deltas:
        flat, values = own_entries(delta)
        flat, values = _padded(flat, values, delta.shape, rank * sum(delta.shape))
        tensors[f"{delta.layer}.{WEIGHT}"] = values
        places = torch.stack([flat // delta.shape[1], flat % delta.shape[1]])
        tensors[f"{delta.layer}.{INDICES}"] = places.to(torch.int32)
    counts = canonical_json({delta.layer: delta.nnz for delta in adapter.deltas}).decode()
    # A mask_type of "random" makes PEFT draw a mask; the one in the file then takes its place.
    config = {"r": rank, "mask_type": "random", "random_seed": None}
    config = {**common_config(adapter, "SHIRA"), **config}
    write_directory(directory, config, tensors, {OWN_COUNTS: counts})
    return rank


def own_entries(delta: WeightDelta) -> tuple[Tensor, Tensor]:
    """Sorted row-major places (int64) and values of an element or block delta, scale included."""
    match delta:
        case ElementDelta():
            flat, values = delta.indices.long(), delta.values
        case BlockDelta():
            places = delta.rows()[:, :, None] * delta.shape[1] + delta.columns()[:, None, :]
            flat, order = places.flatten().sort()
            values = delta.values.flatten()[order]
        case _:
            raise AssertionError(f"a delta of kind {delta.kind!r} has no entries")
    return flat, values if delta.scale == 1 else values.float() * delta.scale


def _rank(deltas: Sequence[WeightDelta]) -> int:
    rank = max(-(-delta.nnz // sum(delta.shape)) for delta in deltas)
    small = [d for d in deltas if rank * sum(d.shape) > d.shape[0] * d.shape[1]]
    if small:
        raise AdapterRefused(
            [f"{d.layer}: SHiRA wants {rank} * (in + out) entries, more than it has" for d in small]
        )
    return rank


def _padded(
    flat: Tensor, values: Tensor, shape: tuple[int, int], count: int
) -> tuple[Tensor, Tensor]:
    """`count` entries: the given ones, then zeros at the first free places."""
    missing = count - len(flat)
    # Of the first `count` places at least `missing` are free.
    free = torch.ones(count, dtype=torch.bool)
    free[flat[flat < count]] = False
    return (
        torch.cat([flat, free.nonzero().flatten()[:missing]]),
        torch.cat([values, values.new_zeros(missing)]),
    )

"""The form that a merged layer would be kept in, and its size: whichever holds it in fewest bytes.

Blocks where all members have tiles on one grid, single entries, or the whole matrix; fp32 values,
int32 places (int64 for the entries of a matrix of more than 2**31). Counts tensors, not headers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters_store.adapter import BlockDelta, WeightDelta

VALUE_BYTES = 4
NARROW_INDEX_BYTES, WIDE_INDEX_BYTES = 4, 8
MAX_NARROW_PLACES = 2**31


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a merge would be: `form` is element, block or dense."""

    form: str
    nnz: int
    density: float
    num_bytes: int


def predict(deltas: Sequence[WeightDelta], covered: int) -> Prediction:
    """The merge of one layer's deltas, which together name `covered` places. Ties go to sparse."""
    rows, columns = deltas[0].shape
    places = rows * columns
    index_bytes = NARROW_INDEX_BYTES if places <= MAX_NARROW_PLACES else WIDE_INDEX_BYTES
    sizes = {
        "element": covered * (VALUE_BYTES + index_bytes),
        "dense": places * VALUE_BYTES,
    }
    tiles = _num_tiles(deltas)
    if tiles is not None:
        sizes = {"block": covered * VALUE_BYTES + tiles * NARROW_INDEX_BYTES, **sizes}
    form = min(sizes, key=lambda name: sizes[name])
    nnz = places if form == "dense" else covered
    return Prediction(form, nnz, nnz / places, sizes[form])


def _num_tiles(deltas: Sequence[WeightDelta]) -> int | None:
    """Tiles that any delta names; None unless all are blocks on one grid."""
    blocks = [delta for delta in deltas if isinstance(delta, BlockDelta)]
    grids = {(delta.block, delta.row_stride) for delta in blocks}
    if len(blocks) < len(deltas) or len(grids) > 1:
        return None
    (height, width), (rows, columns) = blocks[0].block, blocks[0].shape
    is_named = np.zeros((rows // height) * (columns // width), bool)
    for delta in blocks:
        is_named[delta.block_index.numpy()] = True
    return int(is_named.sum())

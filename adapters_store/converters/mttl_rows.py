"""Compressed sparse rows as mttl 1.0.2 stores them.

`row_offs [out + 1]`, int16 `col_idx [nnz]`, and values in the order of the rows: in block mode too,
where `[n, B, B]` is a mere view of that order and no tile of it is a block. `row_idx` orders rows
for a kernel and says nothing about the values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters_store.converters.parts import Entries, check_shape
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import Place

INT16_COLUMNS = 2**15


def read_rows(place: Place, tensors: Mapping[str, Tensor]) -> Entries:
    """The entries of one module; AdapterRefused where indices are missing, wrong or overflowed."""
    missing = [name for name in ("sparse_weights", "row_offs") if name not in tensors]
    if missing:
        raise AdapterRefused([f"{place.layer}: {name}: missing" for name in missing])
    values = tensors["sparse_weights"].flatten()
    offsets, columns = tensors["row_offs"].long(), _columns(place, tensors["col_idx"])
    check_shape(place, "row_offs", offsets, (place.num_rows + 1,))
    check_shape(place, "col_idx", columns, (len(values),))
    counts = offsets.diff()
    if offsets[0] != 0 or offsets[-1] != len(values) or (counts < 0).any():
        raise AdapterRefused([f"{place.layer}: row_offs: do not ascend from 0 to {len(values)}"])
    rows = torch.arange(place.num_rows).repeat_interleave(counts)
    return Entries(place, rows * place.shape[1] + columns, values)


def _columns(place: Place, columns: Tensor) -> Tensor:
    length = place.shape[1]
    if columns.dtype == torch.int16 and length > INT16_COLUMNS:
        raise AdapterRefused(
            [f"{place.layer}: col_idx: int16 has overflowed: the layer has {length} columns"]
        )
    if ((columns < 0) | (columns >= length)).any():
        raise AdapterRefused([f"{place.layer}: col_idx: columns outside [0, {length})"])
    return columns.long()

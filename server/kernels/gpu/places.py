"""Single numbers of a weight, read into a row and written from one: fused mode's save and undo.

Owner: a program has BLOCK consecutive places of the list, no place is in a list twice, and numbers
of 16 bits are stored as such, so no number of the weight has two writers. Numbers are moved and
never computed with: what was saved and is written back is the same to the bit. The weight stays
where it is, so a captured graph multiplies by what was written.

Bytes: of each place 8, of its number one sector of the weight (32, as places lie apart) and the
number itself in the row.
"""

from functools import partial

import torch
import triton.language as tl
from torch import Tensor

from server.kernels.gpu.compiled import Configuration, Kernel, compiled


@partial(compiled, varying=("count",))
def _take_places(
    row: tl.tensor, weight: tl.tensor, places: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """`row[i] = weight[places[i]]`."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_own = at < count
    own = tl.load(places + at, is_own, 0)
    tl.store(row + at, tl.load(weight + own, is_own, 0.0), is_own)


@partial(compiled, varying=("count",))
def _put_places(
    row: tl.tensor, weight: tl.tensor, places: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """`weight[places[i]] = row[i]`."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_own = at < count
    own = tl.load(places + at, is_own, 0)
    tl.store(weight + own, tl.load(row + at, is_own, 0.0), is_own)


SIGNATURE = {"row": "*x", "weight": "*x", "places": "*i64", "count": "i32"}
CONFIGURATIONS = (Configuration({"BLOCK": 1024}, num_warps=4),)
TAKE_PLACES = Kernel(_take_places, SIGNATURE, CONFIGURATIONS)
PUT_PLACES = Kernel(_put_places, SIGNATURE, CONFIGURATIONS)


def take(weight: Tensor, places: Tensor) -> Tensor:
    """The numbers of a contiguous `weight` at its flat `places [n]`, int64."""
    row = weight.new_empty(len(places), dtype=weight.dtype)
    _move(TAKE_PLACES, row, weight, places)
    return row


def put(weight: Tensor, places: Tensor, values: Tensor) -> None:
    """Set them to `values [n]`, rounded to the weight's dtype, where they lie."""
    _move(PUT_PLACES, values.to(weight.dtype).contiguous(), weight, places)


def _move(kernel: Kernel, row: Tensor, weight: Tensor, places: Tensor) -> None:
    assert weight.is_contiguous(), "places are counted where numbers lie behind each other"
    assert places.dtype == torch.int64
    assert len(row) == len(places)
    (configuration,) = kernel.configurations
    programs = -(-len(places) // configuration.sizes["BLOCK"])
    if programs:
        kernel.launch((programs,), configuration, row, weight, places.contiguous(), len(places))

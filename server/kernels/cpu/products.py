"""Products with base weights in oneDNN's own layout: a permutation of the weight, of the same size.

One pack serves every number of rows, and a row's bits are the same whatever other rows there are
(`tests/kernels/test_packed_products.py`). oneDNN compiles a kernel for each number of rows, which
takes longer than the product; so rows are filled up to one of few numbers. One row would take
another kernel that sums in another order: it is computed as two.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters_store.adapter import DenseDelta
from adapters_store.canonical import round_to_fp32

STEPS = ((8, 2), (32, 4), (64, 8), (128, 16), (256, 32), (512, 64))  # up to, multiples of
MOST_ROWS = 512  # of one call; more are split, and joined by copying


@cache
def can_pack() -> bool:
    """Whether this build of torch packs weights, and multiplies by them rightly."""
    x, weight = torch.eye(3, 32), torch.arange(48 * 32.0).view(48, 32)
    try:
        with torch.inference_mode():
            return torch.equal(_multiply(x, _pack(weight)), F.linear(x, weight))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


@dataclass(frozen=True, slots=True, eq=False)
class PackedDelta:
    """A dense delta as one more weight. Satisfies `ReferenceOperand`."""

    weight: Tensor
    scale: float
    num_bytes: int

    @classmethod
    def of(cls, delta: DenseDelta) -> "PackedDelta":
        weight = pack(delta.delta.float())
        return cls(weight, round_to_fp32(delta.scale), packed_bytes(delta))

    def product(self, x: Tensor) -> Tensor:
        return self.scale * product(x, self.weight)


def packed_bytes(delta: DenseDelta) -> int:
    """Bytes of `PackedDelta.of(delta)`, which is not made for it."""
    return delta.delta.numel() * torch.float32.itemsize


def pack(weight: Tensor) -> Tensor:
    """`weight [out, in]` for `product`; as it is where it cannot be packed."""
    return _pack(weight) if can_pack() else weight


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` of fp32 rows `x [n, in]` and what `pack` made: `[n, out]`."""
    if not weight.is_mkldnn:
        return F.linear(x, weight)
    if x.shape[0] <= MOST_ROWS:
        return _filled_product(x, weight)
    return torch.cat([_filled_product(rows, weight) for rows in x.split(MOST_ROWS)])


def _filled_product(x: Tensor, weight: Tensor) -> Tensor:
    rows = x.shape[0]  # len() of a tensor takes longer than some products
    wanted = _filled(rows)
    if wanted == rows:
        return _multiply(x, weight)
    return _multiply(F.pad(x, (0, 0, 0, wanted - rows)), weight)[:rows]


def _filled(rows: int) -> int:
    step = next(step for limit, step in STEPS if rows <= limit)
    return max(step, -(-rows // step) * step)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y

"""What deltas add to a linear layer's fp32 product: launches over a work list, and one sum.

`scratch` sizes follow the batch; the grids do not. Knows nothing of weights.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from server.kernels.gpu.compiled import is_interpreted
from server.kernels.gpu.operands import Work
from server.kernels.gpu.sums import ADD_PRODUCTS
from server.kernels.gpu.worklists import DeviceWork, WorkList, list_work
from server.kernels.interface import DeltaBatch
from server.kernels.reference_operands import ReferenceOperand


@dataclass(frozen=True, slots=True)
class DeltaProducts:
    """The kernels of deltas on one device."""

    num_programs: int  # of every grid that takes items from a list

    def add(self, base: Tensor, x: Tensor, deltas: DeltaBatch) -> Tensor:
        """`base [T, out]`, in fp32, plus every pair's `coefficient * scale * (D @ x)`.

        Rounded once to the dtype of `x [T, in]`.
        """
        work = list_work(deltas.operands, deltas.offsets, base.shape[1])
        placed = work.placed(x.device)
        products = self._products(x, deltas, work, placed, base.shape[1])
        return add_products(base, products, placed.pairs, deltas, x.dtype)

    def _products(
        self, x: Tensor, deltas: DeltaBatch, work: WorkList, placed: DeviceWork, num_rows: int
    ) -> Tensor:
        """What every operand makes of every pair of its segment, `[products, out]` in fp32."""
        products = x.new_empty(work.num_products, num_rows, dtype=torch.float32)
        inner = x.new_empty(work.num_inner, dtype=torch.float32)
        for launch, form in enumerate(work.forms):
            form.kernel.launch(
                (self.num_programs,),
                form.configuration,
                inner if form.work is Work.LOW_RANK_A else products,
                inner if form.work is Work.LOW_RANK_B else x,
                deltas.tokens,
                placed.table,
                placed.jobs,
                placed.launches,
                launch,
                **form.constants,
            )
        for operand, first, pairs in work.others:
            own = x[deltas.tokens[pairs]].float()
            made = cast("ReferenceOperand", operand).product(own)
            products[first : first + len(own)] = made
        return products


def add_products(
    base: Tensor, products: Tensor, pairs: Tensor, deltas: DeltaBatch, dtype: torch.dtype
) -> Tensor:
    """`base` with each token's products times their coefficients, in their order, as `dtype`.

    `pairs [products]` are the pairs that they are of.
    """
    num_tokens, width = base.shape
    y = base.new_empty(base.shape, dtype=dtype)
    tokens, order = deltas.tokens[pairs].sort(stable=True)
    starts = torch.searchsorted(tokens, torch.arange(num_tokens + 1, device=base.device))
    (configuration,) = ADD_PRODUCTS.configurations
    blocks = -(-width // configuration.sizes["BLOCK"])
    arguments = (y, base, products, starts, order, pairs, deltas.coefficients, width)
    if num_tokens:
        grid = (num_tokens, blocks)
        ADD_PRODUCTS.launch(grid, configuration, *arguments, INTERPRETED=is_interpreted())
    return y

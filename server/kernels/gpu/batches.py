"""Deltas of one layer of a step that is not recorded: described to the device when they are added.

The numbers go there in one copy from pinned memory for every chunk of rows; chunks bound the
scratch of products. Nothing waits for the device. Also multiplies what no kernel does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from server.kernels.gpu.deltas import DeltaProducts, LayerWork, parted, scratch_size
from server.kernels.gpu.forms import forms_of
from server.kernels.gpu.layout import Layout, Regions, coefficients_of
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.table import COUNT, PAIR, ROW
from server.kernels.gpu.worklists import Segment, WorkList, chunks, list_work
from server.plan.steps import MOST_PRODUCTS


@dataclass(frozen=True, slots=True)
class BatchProducts:
    """Adds the deltas of single layers."""

    kernels: DeltaProducts
    most_products: int = MOST_PRODUCTS

    def add(
        self,
        base: Tensor,
        x: Tensor,
        segments: Sequence[Segment],
        tokens: Numbers,
        coefficients: Tensor,
    ) -> Tensor:
        """`base [T, out]`, in fp32, plus what `segments` add, rounded once to the dtype of `x`.

        `tokens` and `coefficients` are of all pairs of the step, the latter on the host or where
        `x` lies.
        """
        y = base.new_empty(base.shape, dtype=x.dtype)
        num_tokens, width = base.shape
        for rows, own in chunks(segments, tokens, num_tokens, self.most_products // width):
            work = list_work(own, tokens, rows)
            placed, shares = _placed(work, width, tokens, coefficients, x)
            self.kernels.make(x, placed)
            _multiply_others(x, work, placed)
            part = slice(rows.start, rows.stop)
            self.kernels.add(y[part], base[part], placed, shares)
        return y


def _placed(
    work: WorkList, width: int, tokens: Numbers, coefficients: Tensor, x: Tensor
) -> tuple[LayerWork, Tensor]:
    """`work` where `x` lies, with a scratch; and the coefficients there."""
    capacity = work.capacity._replace(pairs=len(tokens))
    kinds = {slot.kind for slot in work.slots if slot.kind is not None}
    used = tuple(form for form in forms_of(kinds, len(tokens)) if form in work.jobs)
    layout = Layout(capacity, used, (width,), 1)
    host = torch.empty(layout.num_numbers, dtype=torch.int64, pin_memory=x.is_cuda)
    is_host = coefficients.device.type == "cpu"
    shares = coefficients.numpy() if is_host else np.zeros(0, np.float32)
    layout.write(host.numpy(), work, tokens, shares)
    regions = layout.device_regions(host.to(x.device, non_blocking=True))
    scratch = x.new_empty(scratch_size(work.num_inner, len(work.sums), width), dtype=torch.float32)
    placed = _layer_work(layout, regions, scratch)
    return placed, coefficients_of(regions, capacity) if is_host else coefficients


def _layer_work(layout: Layout, own: Regions, scratch: Tensor) -> LayerWork:
    inner, products = parted(scratch, layout.capacity.inner)
    numbers = (own.tokens, own.starts, own.sums, own.slots, own.jobs, own.launches[0], own.parts[0])
    return LayerWork(layout.forms, *numbers, inner, products)


def _multiply_others(x: Tensor, work: WorkList, placed: LayerWork) -> None:
    for slot, numbers in zip(work.slots, work.slot_numbers, strict=True):
        if slot.other is not None:
            first, count, row = (int(numbers[at]) for at in (PAIR, COUNT, ROW))
            products = placed.products.view(-1, slot.num_rows)
            own = x[placed.tokens[first : first + count]].float()
            products[row : row + count] = slot.other.product(own)

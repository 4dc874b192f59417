"""Numbers in groups of one byte each and one scale: what int8 products are, in plain torch.

A row falls into groups of `GROUP` numbers, the last one filled up with zeros. A group's scale is a
127th of its largest magnitude, and its numbers are whole multiples of that, to nearest, ties to
even. Nothing depends on another row. Numbers that are all below `SMALLEST` count as zeros; a group
that holds something which is no finite number has the scale NaN, and so has all it is part of.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 32
LARGEST = 127  # magnitude of a number of one byte
SMALLEST = 1e-30  # so that no scale and no inverse of one leaves fp32's normal range


class Grouped(NamedTuple):
    """Quantized rows: `scales[..., None] * numbers` stands for them."""

    numbers: Tensor  # [n, groups, group] int8
    scales: Tensor  # [n, groups] fp32


def quantize(rows: Tensor, group: int = GROUP) -> Grouped:
    """`rows [n, width]`, fp32, as the compiled loops quantize them too."""
    filled = F.pad(rows, (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
    largest = filled.abs().amax(-1)
    finite = largest.isfinite()  # a maximum over NaN is NaN
    scales = torch.where(largest < SMALLEST, 0, largest / LARGEST).where(finite, torch.nan)
    inverses = torch.where((largest >= SMALLEST) & finite, LARGEST / largest, 0)
    numbers = (filled * inverses[..., None]).where(finite[..., None], 0).round().to(torch.int8)
    return Grouped(numbers, scales)


def dequantize(rows: Grouped, width: int) -> Tensor:
    """What `rows` stand for: `[n, width]`, fp32."""
    return (rows.numbers * rows.scales[..., None]).flatten(1)[:, :width]


def product(x: Grouped, weight: Grouped) -> Tensor:
    """`x @ weight.T`, `[n, out]`: whole numbers within a group, then fp32, group after group.

    The products of the two scales, their product with a group's sum, and each addition are rounded
    to fp32. The compiled product is equal to the bit.
    """
    y = torch.zeros(len(x.numbers), len(weight.numbers))
    for group in range(x.scales.shape[1]):
        sums = x.numbers[:, group].double() @ weight.numbers[:, group].double().T  # exact
        y += sums.float() * (x.scales[:, group, None] * weight.scales[:, group])
    return y

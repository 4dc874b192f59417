"""An adapter's sparse deltas as one dense matrix, that the library can multiply by.

Whether that pays, counted in dense multiply-adds of tensor cores, of which an H100 does 3e14 a
second in 16 bits. A matrix of N numbers is filled with zeros, written and read by the product: 6 N
bytes at 3.3e12 a second are as long as 600 N of them, so as 600 tokens' product with it (A100 and
A10: 400). Then each token costs N. Products by entry need no matrix, but their n = density * N
numbers cost more each, a token: an entry reads an input by index, at some 1e12 a second, as long as
300; a number of a run is multiplied in vectors, at 1.5e13 a second, as long as 20; one of a tile in
tensor cores, which it does not fill, as long as 4. So the matrix pays from `FILL / (cost * density
- 1)` tokens on: at density 0.01 from 300 tokens of entries, at 0.1 from 20, at 0.003 never; of runs
from 600 at 0.1; of tiles from 600 at 0.5.

The matrix is the deltas alone, beside the base's product and not in one with it: `W + delta` in 16
bits loses what is small beside W, 45 % of a delta of deviation 1e-4 on weights of 0.03, where the
deltas alone lose 0.2 % at most. In fp32, which tests use, nothing is lost either way.

One buffer, as large as the largest weight, is that matrix for one layer and one adapter (or one
composition) after another, in one stream.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapters_store.canonical import round_to_fp32
from server.kernels.gpu.compiled import is_interpreted
from server.kernels.gpu.operands import EDGE, GpuOperand, Work
from server.kernels.gpu.spread import SPREAD_RUNS, SPREAD_TILES
from server.kernels.gpu.table import ROWS, SCALE, SIZE


@dataclass(frozen=True, slots=True)
class MatrixCosts:
    """Of a number, in dense multiply-adds: filling the matrix; a product by entry, a token."""

    fill: float = 600
    entry: float = 300
    run: float = 20
    tile: float = 4

    def pays(self, operands: Iterable[GpuOperand], shape: tuple[int, int], num_tokens: int) -> bool:
        """Whether a matrix of this shape is faster than the products of `operands`."""
        cost = {Work.ENTRIES: self.entry, Work.RUNS: self.run, Work.TILES: self.tile}
        products = sum(cost[own.parts[-1].work] * own.arrays[-1].numel() for own in operands)
        numel = shape[0] * shape[1]
        return num_tokens * (products - numel) > self.fill * numel


H100_COSTS = MatrixCosts()


class Scratch:
    """The buffer of the matrices."""

    def __init__(self, num_programs: int) -> None:
        self._num_programs = num_programs
        self._buffer = torch.empty(0)

    def reserve(self, numel: int, dtype: torch.dtype, device: torch.device) -> None:
        """Have room for so many numbers from now on."""
        if self._buffer.numel() < numel or self._buffer.dtype != dtype:
            self._buffer = torch.empty(0)  # the old one goes first
            self._buffer = torch.empty(numel, dtype=dtype, device=device)

    def matrix(self, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Zeros of the dtype of `like`, where it lies; valid until the next is asked for."""
        numel = shape[0] * shape[1]
        self.reserve(numel, like.dtype, like.device)
        return self._buffer[:numel].zero_().view(shape)

    def add(self, matrix: Tensor, operand: GpuOperand, coefficient: float) -> None:
        """Add `coefficient * scale * D` to a `matrix`, rounded to its dtype."""
        (part,) = operand.parts
        scale = float(np.int32(part.row[SCALE]).view(np.float32))
        factor, width = round_to_fp32(coefficient * scale), matrix.shape[1]
        sizes: tuple[int, ...]
        if part.work is Work.TILES:
            kernel, number = SPREAD_TILES, 0
            sizes = (int(part.row[ROWS]), int(part.row[SIZE]))
        else:
            kernel, number = SPREAD_RUNS, int(operand.arrays[-1].shape[1] == EDGE)
            sizes = (len(operand.arrays[0]) - 1,)
        kernel.launch(
            (self._num_programs,),
            kernel.configurations[number],
            matrix,
            *operand.arrays,
            factor,
            width,
            *sizes,
            INTERPRETED=is_interpreted(),
        )

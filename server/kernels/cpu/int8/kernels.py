"""The kernels that serve a base of one byte to a weight on a CPU.

Deltas and biases stay in full precision beside it: they are added to the fp32 products.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from server.kernels.cpu.int8 import layout, products
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.cpu.layers import IN_BYTES
from server.kernels.cpu.warming import call_all
from server.kernels.interface import Operand


class Int8CpuKernels(CpuKernels):
    """`CpuKernels` whose base weights and activations are quantized, group by group of a row."""

    name = "cpu-int8/1"

    def pack(self, weight: Tensor) -> Tensor:
        return layout.pack(weight)

    def can_fuse(self, operand: Operand) -> bool:
        return False  # written into bytes, a delta would be rounded as coarsely as they are

    @torch.inference_mode()
    def warm_up(self, weights: Iterable[Tensor]) -> None:
        call_all(self)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return products.product(x, weight, self._threads)

    def _depth(self, weight: Tensor, width: int) -> int:
        return IN_BYTES

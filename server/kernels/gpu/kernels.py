"""The kernels that serve on a GPU: what `interface.py` asks for, by Triton where that is faster.

What is not written here is the reference's. The same kernels run in Triton's interpreter on a
CPU, a thousand times slower, for tests.
"""

import torch
from torch import Tensor

from adapters_store.adapter import WeightDelta
from server.kernels.gpu.deltas import DeltaProducts
from server.kernels.gpu.entries import has_entries, operand_entries
from server.kernels.gpu.operands import GpuOperand, can_lay_out, laid_out_bytes, lay_out
from server.kernels.interface import DeltaBatch, Entries, Operand
from server.kernels.reference import ReferenceKernels, fp32_product

PROGRAMS_OF_PROCESSOR = 16  # small programs; those that cannot be resident take what is left over
INTERPRETED_PROGRAMS = 3  # so that a test's programs have more than one item each, and unlike ones


class GpuKernels(ReferenceKernels):
    """`Kernels` for activations of any floating dtype on a GPU.

    A product without deltas is the library's in the dtype of `x`, one with deltas the library's
    fp32 sums. So a row without pairs is the same to the library's tolerance, beside rows with
    pairs, and not to the bit.
    """

    name = "gpu/1"

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self._deltas = DeltaProducts(_num_programs(self.device))

    def operand(self, delta: WeightDelta) -> Operand:
        return lay_out(delta, self.device) if can_lay_out(delta) else super().operand(delta)

    def operand_bytes(self, delta: WeightDelta) -> int:
        return laid_out_bytes(delta) if can_lay_out(delta) else super().operand_bytes(delta)

    def can_fuse(self, operand: Operand) -> bool:
        return isinstance(operand, GpuOperand) and has_entries(operand)

    def entries(self, operand: Operand, weight: Tensor) -> Entries:
        assert isinstance(operand, GpuOperand), "asked of what cannot fuse"
        return operand_entries(operand, weight.shape[1])

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch | None) -> Tensor:
        if deltas is None:
            return self.product(x, weight)
        return self._deltas.add(self._wide_product(x, weight), x, deltas)

    def _wide_product(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x @ weight.T` before it is rounded."""
        if x.dtype == torch.float32:
            return self.product(x, weight)
        if x.is_cuda:
            return torch.mm(x, weight.T, out_dtype=torch.float32)
        return fp32_product(x, weight)


def _num_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return PROGRAMS_OF_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count

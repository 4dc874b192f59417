"""Products as they would be in other groups, or with some weights left in fp32: in plain torch."""

from collections.abc import Collection
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from server.kernels.cpu.int8.grouped import dequantize, quantize
from server.kernels.cpu.kernels import CpuKernels


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which weights are quantized, and how; and whether activations are too."""

    group: int = 32
    kept: Collection[tuple[int, ...]] = ()  # shapes of weights that stay in fp32
    activations: bool = True


class SimulatedKernels(CpuKernels):
    """Weights are what their bytes stand for, activations become so before each product."""

    name = "simulated"

    def __init__(self, grouping: Grouping) -> None:
        super().__init__()
        self._grouping = grouping

    def pack(self, weight: Tensor) -> Tensor:
        return weight if tuple(weight.shape) in self._grouping.kept else self._rounded(weight)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        plain = tuple(weight.shape) in self._grouping.kept or not self._grouping.activations
        return F.linear(x if plain else self._rounded(x), weight)

    def _rounded(self, rows: Tensor) -> Tensor:
        return dequantize(quantize(rows, self._grouping.group), rows.shape[1])

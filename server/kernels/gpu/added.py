"""What deltas add to a linear layer, whichever way they come: recorded, by batch, as a matrix."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from server.kernels.gpu.batches import BatchProducts
from server.kernels.gpu.deltas import DeltaProducts
from server.kernels.gpu.long_prompts import LongPrompts
from server.kernels.gpu.operands import Kind
from server.kernels.gpu.scratch import MatrixCosts, Scratch
from server.kernels.gpu.slots import SlotFiling
from server.kernels.gpu.steps import GpuStepDeltas, PreparedDeltas
from server.kernels.interface import DeltaBatch
from server.kernels.recorded import Capacity


class AddedDeltas:
    """Of all linear layers on one device."""

    def __init__(
        self,
        num_programs: int,
        costs: MatrixCosts,
        product: Callable[[Tensor, Tensor], Tensor],
        device: torch.device,
    ) -> None:
        """`product(x, weight)` is `x @ weight.T` in fp32."""
        self._device = device
        self._product = product
        self._kernels = DeltaProducts(num_programs)
        self._batches = BatchProducts(self._kernels)
        self._scratch = Scratch(num_programs)
        self._long = LongPrompts(costs, self._scratch, product)
        self._filings: dict[tuple[str, ...], SlotFiling] = {}  # by layers: a model's, as a rule

    def reserve(self, weights: Iterable[Tensor]) -> None:
        """Take the memory that long prompts with any of `weights` will need."""
        for weight in weights:
            self._scratch.reserve(weight.numel(), weight.dtype, self._device)

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch) -> Tensor:
        """As `Kernels.linear`. Waits for nothing, if the pairs' tokens are on the host."""
        base = self._product(x, weight)
        if isinstance(deltas, PreparedDeltas):
            return self._add_prepared(base, x, deltas)
        left = self._long.add(base, x, deltas)
        return self._batches.add(base, x, left, deltas.tokens.numpy(), deltas.coefficients)

    def _add_prepared(self, base: Tensor, x: Tensor, deltas: PreparedDeltas) -> Tensor:
        assert len(x) == len(deltas.work.starts) - 1, "a step has as many rows as was said"
        y = base.new_empty(base.shape, dtype=x.dtype)
        self._kernels.make(x, deltas.work)
        self._kernels.add(y, base, deltas.work, deltas.coefficients)
        return y

    def step_deltas(
        self, layers: Mapping[str, int], capacity: Capacity, kinds: Iterable[object]
    ) -> GpuStepDeltas:
        """Those of one recorded step; steps of the same layers share what is known of adapters."""
        filing = self._filings.setdefault(tuple(layers), SlotFiling(tuple(layers)))
        own = frozenset(kind for kind in kinds if isinstance(kind, Kind))
        return GpuStepDeltas(layers, capacity, own, filing, self._device)

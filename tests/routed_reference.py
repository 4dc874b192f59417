"""Arrow from its definition: dense matrices, a singular value decomposition, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters_store.adapter import BiasDelta, SparseAdapter


@dataclass(frozen=True)
class Arrow:
    """Adapters with weights, in the order of their digests."""

    members: Sequence[tuple[SparseAdapter, float]]
    temperature: float
    top_k: int

    def change(self, layer: str, x: Tensor) -> Tensor | None:
        """What is added to the output of `layer` for inputs `x [T, in]`, in fp64."""
        own = [(self._parts(adapter, layer), weight) for adapter, weight in self.members]
        here = [(matrix, bias, w) for (matrix, bias), w in own if not (matrix is bias is None)]
        if not here:
            return None
        return torch.stack([self._change_of(token, here) for token in x.double()])

    def _parts(self, adapter: SparseAdapter, layer: str) -> tuple[Tensor | None, Tensor | None]:
        matrix = bias = None
        for delta in adapter.deltas:
            if delta.layer == layer and isinstance(delta, BiasDelta):
                bias = delta.dense().double()
            elif delta.layer == layer:
                matrix = delta.dense().double()
        return matrix, bias

    def _change_of(
        self, token: Tensor, here: Sequence[tuple[Tensor | None, Tensor | None, float]]
    ) -> Tensor:
        logits = {
            i: abs(float(token @ torch.linalg.svd(matrix).Vh[0]))
            for i, (matrix, _, _) in enumerate(here)
            if matrix is not None
        }
        chosen = sorted(logits, key=lambda i: -logits[i])[: self.top_k]
        scores = torch.tensor([logits[i] for i in chosen], dtype=torch.float64)
        shares = dict(zip(chosen, (scores / self.temperature).softmax(0).tolist(), strict=True))
        total: Any = 0.0
        for i, (matrix, bias, weight) in enumerate(here):
            share = shares.get(i, 0.0) if matrix is not None else 1 / len(here)
            if matrix is not None:
                total = total + weight * share * (matrix @ token)
            if bias is not None:
                total = total + weight * share * bias
        assert isinstance(total, Tensor)
        return total


def route(model: Any, arrow: Arrow) -> Any:
    """Let every linear layer of a transformers `model` add what `arrow` says; returns `model`."""

    def hook_of(name: str) -> Any:
        def add(_: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
            change = arrow.change(name, inputs[0].flatten(0, -2))
            return None if change is None else output + change.view_as(output).to(output.dtype)

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(hook_of(name))
    return model

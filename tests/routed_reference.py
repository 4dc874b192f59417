"""Arrow from its definition: dense matrices, a singular value decomposition, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapters_store.adapter import BiasDelta, SparseAdapter


class Change(NamedTuple):
    """What an adapter changes in one layer, in fp64."""

    matrix: Tensor | None
    direction: Tensor | None  # top right-singular vector of `matrix`
    bias: Tensor | None


@cache
def change_in(adapter: SparseAdapter, layer: str) -> Change | None:
    """None where the adapter leaves the layer alone."""
    own = [delta for delta in adapter.deltas if delta.layer == layer]
    matrices = [d.dense().double() for d in own if not isinstance(d, BiasDelta)]
    biases = [d.dense().double() for d in own if isinstance(d, BiasDelta)]
    if not own:
        return None
    return Change(
        matrices[0] if matrices else None,
        torch.linalg.svd(matrices[0]).Vh[0] if matrices else None,
        biases[0] if biases else None,
    )


@dataclass(frozen=True)
class Arrow:
    """Adapters with weights, in the order of their digests."""

    members: Sequence[tuple[SparseAdapter, float]]
    temperature: float
    top_k: int

    def change(self, layer: str, x: Tensor) -> Tensor | None:
        """What is added to the output of `layer` for inputs `x [T, in]`, in fp64."""
        own = [(change_in(adapter, layer), weight) for adapter, weight in self.members]
        here = [(change, weight) for change, weight in own if change is not None]
        return torch.stack([self._of(token, here) for token in x.double()]) if here else None

    def _of(self, token: Tensor, here: Sequence[tuple[Change, float]]) -> Tensor:
        shares = self._shares(token, [change.direction for change, _ in here])
        parts = []
        for share, (change, weight) in zip(shares, here, strict=True):
            if change.matrix is not None:
                parts.append(weight * share * (change.matrix @ token))
            if change.bias is not None:
                parts.append(weight * share * change.bias)
        return torch.stack(parts).sum(0)

    def _shares(self, token: Tensor, directions: Sequence[Tensor | None]) -> list[float]:
        logits = {i: abs(float(token @ v)) for i, v in enumerate(directions) if v is not None}
        chosen = sorted(logits, key=lambda i: -logits[i])[: self.top_k]
        scores = torch.tensor([logits[i] for i in chosen], dtype=torch.float64)
        shares = dict(zip(chosen, (scores / self.temperature).softmax(0).tolist(), strict=True))
        without = 1 / len(directions)
        return [shares.get(i, 0.0 if i in logits else without) for i in range(len(directions))]


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

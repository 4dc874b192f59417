"""Which entries of a weight a SHiRA adapter may change: the SNIP criterion.

Per layer, the `r * (in + out)` entries with the largest |W * dL/dW|, the gradient summed over a few
batches of the task (Bhardwaj et al., "Sparse High Rank Adapters", appendix B).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from examples.batches import Batch, answer_loss

MaskFunction = Callable[..., Tensor]


def snip_mask_fn(model: Any, batches: Iterable[Batch], target: str) -> MaskFunction:
    """PEFT's `mask_fn` for the linear layers of `model` whose name ends in `target`."""
    layers = [layer for name, layer in model.named_modules() if name.endswith(target)]
    _accumulate_gradients(model, layers, batches)
    scores = {layer: (layer.weight * layer.weight.grad).abs().detach() for layer in layers}
    for layer in layers:
        layer.weight.grad = None

    def mask_fn(base_layer: nn.Module, r: int, **_: Any) -> Tensor:
        score = scores[base_layer]
        kept = score.flatten().topk(r * sum(score.shape)).indices
        return torch.zeros(score.numel()).scatter_(0, kept, 1.0).view_as(score)

    return mask_fn


def _accumulate_gradients(model: Any, layers: list[nn.Module], batches: Iterable[Batch]) -> None:
    model.requires_grad_(False)
    for layer in layers:
        layer.requires_grad_(True)
    for batch in batches:
        answer_loss(model, batch).backward()
    model.requires_grad_(False)

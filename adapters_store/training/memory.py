"""What a training's state takes, counted in bytes rather than read from the process.

A process's resident memory has the allocator's and the libraries' in it; this is the part that
the dense and the sparse phase differ in.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters_store.training.trainable import LossOf, TrainableDeltas


@dataclass(frozen=True, slots=True)
class TrainingBytes:
    """Bytes of the deltas (with masks and places), of their gradients and of optimizer state."""

    deltas: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.deltas + self.gradients + self.optimizer


def training_bytes(deltas: TrainableDeltas, optimizer: torch.optim.Optimizer) -> TrainingBytes:
    """What is held now; gradients are counted as they are while a step is made."""
    states = [entry for state in optimizer.state.values() for entry in state.values()]
    return TrainingBytes(
        deltas.num_bytes,
        sum(weight.nbytes for weight in deltas.parameters()),
        sum(entry.nbytes for entry in states if isinstance(entry, Tensor)),
    )


def saved_bytes(loss_of: LossOf, model: nn.Module) -> int:
    """Bytes that autograd keeps from a forward pass of `model` for the backward pass.

    Each piece of memory counts once, and not at all if it is the model's own, which is held anyway.
    """
    own = [*model.parameters(), *model.buffers()]
    held = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of()
    return sum(kept.values())

"""The sparse phase holds and makes nothing of the size of a matrix."""

import gc
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_models import (
    backward,
    lm_loss,
    mask_of,
    random_selection,
    tiny_causal_lm,
    token_batches,
    train,
)

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


def test_nothing_dense_outlives_the_switch() -> None:
    model = tiny_causal_lm()
    deltas = TrainableDeltas(model)
    deltas.start_dense()
    optimizer = torch.optim.AdamW(deltas.parameters())
    deltas.select(random_selection(deltas, 0.01))
    train(model, optimizer, token_batches(2))
    deltas_before = training_bytes(deltas, optimizer)
    dense = _references(deltas, optimizer)
    deltas.switch(optimizer)
    gc.collect()
    assert [each() for each in dense] == [None] * 6
    train(model, optimizer, token_batches(2))
    after = training_bytes(deltas, optimizer)
    entries = sum(len(tiles) for tiles in deltas.selection or ())
    assert after.gradients == 4 * entries
    assert after.optimizer == 8 * entries + 4 * 2  # and a count of steps for each layer
    assert after.total < 0.05 * deltas_before.total


def _references(deltas: TrainableDeltas, optimizer: Any) -> list[weakref.ref[Any]]:
    weights = deltas.parameters()
    moments = [optimizer.state[weight]["exp_avg"] for weight in weights]
    return [weakref.ref(each) for each in [*weights, *moments, *map(mask_of, deltas.parts)]]


def test_sparse_phase_keeps_less_for_the_backward_pass() -> None:
    """The dense phase keeps `W * M` for every layer; the sparse one only what x was."""
    deltas = TrainableDeltas(tiny_causal_lm())
    loss_of = lm_loss(deltas.model, token_batches(1)[0])
    deltas.start_dense()
    deltas.select(random_selection(deltas, 0.01))
    dense = saved_bytes(loss_of, deltas.model)
    deltas.switch()
    sparse = saved_bytes(loss_of, deltas.model)
    rows, columns = deltas.targets[1].shape  # the first layer's input needs no gradient, so no W
    assert dense - sparse == 4 * rows * columns


class NewMatrices(TorchDispatchMode):
    """Counts strided tensors of as many numbers as `shape` has that are no views of `held`."""

    def __init__(self, shape: tuple[int, int], held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel, self.count = shape[0] * shape[1], 0
        self.held = {tensor.untyped_storage().data_ptr() for tensor in held}

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple) else (result,):
            if isinstance(each, Tensor) and each.layout == torch.strided:
                is_new = each.untyped_storage().data_ptr() not in self.held
                self.count += is_new and each.numel() == self.numel
        return result


@pytest.mark.parametrize("block", [(1, 1), (16, 16), (1, 16)])
def test_no_matrix_is_made_in_the_sparse_phase(block: Any) -> None:
    deltas = TrainableDeltas(tiny_causal_lm(), block=block)
    counts = []
    for phase in ("dense", "sparse"):
        if phase == "dense":
            deltas.start_dense()
        else:
            deltas.start_sparse(random_selection(deltas, 0.1))
        with NewMatrices(deltas.targets[0].shape, deltas.model.parameters()) as made:
            backward(lm_loss(deltas.model, token_batches(1)[0])())
        counts.append(made.count)
    assert counts[0] >= 2  # the gradient of each layer's weight, at least
    assert counts[1] == 0

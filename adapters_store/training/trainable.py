"""All the deltas of a model in training, in one of two phases.

Dense: every entry of the targets has a weight, and a mask may say which count. Sparse: the selected
values, their gradients and their optimizer state are all there is. Knows no scores and no schedule.

A *selection* is a sequence of tile ids (int64, sorted, unique), one tensor per target.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adapters_store.training.deltas import (
    ELEMENT,
    Block,
    DenseDelta,
    take_tiles,
)
from adapters_store.training.errors import NoMask
from adapters_store.training.targets import DEFAULT_TARGET, Part, Target, attach, detach

Phase = Literal["base", "dense", "sparse"]
Selection = Sequence[Tensor]
LossOf = Callable[[], Tensor]  # the loss of one micro-batch, computed anew


class TrainableDeltas:
    """The deltas of `model`'s targets, which stay attached until `detach`.

    After construction the model is frozen and computes what it did; `start_dense` or
    `start_sparse` makes the parameters. They change at `switch`, so an optimizer is made after a
    start and given to `switch`. The model is on its device before.
    """

    def __init__(
        self, model: nn.Module, target: str = DEFAULT_TARGET, block: Block = ELEMENT
    ) -> None:
        """Raises NoTarget and BlockMisfit."""
        self.model, self.block = model, block
        self.targets: tuple[Target, ...] = attach(model, target, block)
        self.phase: Phase = "base"
        self._mask: tuple[Tensor, ...] | None = None  # the dense phase's

    @property
    def parts(self) -> Iterator[Part]:
        return (part for target in self.targets for part in target.parts)

    def parameters(self) -> list[nn.Parameter]:
        """What is trained now, in the model's order."""
        deltas = [part.linear.delta for part in self.parts]
        return [weight for delta in deltas if delta is not None for weight in delta.parameters()]

    @property
    def num_bytes(self) -> int:
        """Bytes of the deltas: parameters, masks and index structures, without gradients."""
        return sum(part.linear.delta.num_bytes for part in self.parts if part.linear.delta)

    def start_dense(self, weights: Sequence[Tensor] | None = None) -> None:
        """Begin with dense deltas without a mask: zeros, or `weights`, `[rows, in]` per target."""
        for target in self.targets:
            target.make_dense()
        if weights is not None:
            self._fill(weights)
        self.phase, self._mask = "dense", None

    def start_sparse(self, selection: Selection, weights: Sequence[Tensor] | None = None) -> None:
        """Begin in the sparse phase, with zeros at `selection`, or what `weights` have there."""
        for target, tiles in zip(self.targets, selection, strict=True):
            target.make_sparse(tiles)
        if weights is not None:
            self._fill(weights)
        self.phase, self._mask = "sparse", None

    def _fill(self, weights: Sequence[Tensor]) -> None:
        for target, weight in zip(self.targets, weights, strict=True):
            target.fill(weight)

    @property
    def selection(self) -> tuple[Tensor, ...] | None:
        """Tile ids per target; None while everything counts."""
        if self.phase == "sparse":
            return tuple(target.sparse_tiles() for target in self.targets)
        return self._mask

    def select(self, selection: Selection) -> None:
        """Mask the dense deltas. What they hold elsewhere stays, and counts if selected again."""
        assert self.phase == "dense", "masks are selected in the dense phase"
        for target, tiles in zip(self.targets, selection, strict=True):
            target.select(tiles)
        self._mask = tuple(selection)

    def values(self) -> list[Tensor]:
        """The selected values, one `[nnz]` or `[n, Br, Bc]` per target, detached."""
        if self.phase == "sparse":
            return [target.sparse_values() for target in self.targets]
        assert self._mask is not None, "a selection"
        pairs = zip(self.dense_weights(), self._mask, strict=True)
        return [take_tiles(weight, tiles, self.block) for weight, tiles in pairs]

    def dense_weights(self) -> list[Tensor]:
        """The dense deltas without their masks, one `[rows, in]` per target, detached."""
        assert self.phase == "dense", "there are dense deltas only in the dense phase"
        weights = {name: weight.detach() for name, weight in self._dense_weights().items()}
        return [target.stack(weights) for target in self.targets]

    def dense_gradients(self, loss_of: LossOf) -> list[Tensor]:
        """Gradients of the loss with every entry counting (masks of ones), one per target.

        Neither masks nor `.grad` of any parameter are changed: gradients that were accumulated
        stay as they are.
        """
        weights = self._dense_weights()
        with self._unmasked():
            gradients = torch.autograd.grad(loss_of(), list(weights.values()))
        named = dict(zip(weights, gradients, strict=True))
        return [target.stack(named) for target in self.targets]

    def base_gradients(self, batches: Iterable[LossOf]) -> list[Tensor]:
        """Gradients of the base's weights, summed over `batches`, in the deltas' dtype."""
        weights = {part.name: part.linear.base.weight for part in self.parts}
        sums = {
            part.name: torch.zeros_like(part.linear.base.weight, dtype=part.linear.delta_dtype)
            for part in self.parts
        }
        with _requiring_gradients(weights.values()):
            for loss_of in batches:
                gradients = torch.autograd.grad(loss_of(), list(weights.values()))
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    total += gradient
        return [target.stack(sums) for target in self.targets]

    def _dense_weights(self) -> dict[str, nn.Parameter]:
        return {part.name: _dense(part).weight for part in self.parts}

    @contextmanager
    def _unmasked(self) -> Iterator[None]:
        masks = [_dense(part).mask for part in self.parts]
        for part in self.parts:
            _dense(part).mask = None
        try:
            yield
        finally:
            for part, mask in zip(self.parts, masks, strict=True):
                _dense(part).mask = mask

    def switch(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """End the dense phase: only the selected values remain, and nothing dense.

        In `optimizer` the values take the place of the dense weights, with their part of every
        state tensor (Adam's moments) and the same step; so do gradients that were accumulated.
        A layer of which nothing is selected leaves the optimizer. Raises NoMask.
        """
        if self._mask is None:
            raise NoMask(self.targets[0].name)
        for target, tiles in zip(self.targets, self._mask, strict=True):
            for part, own in target.by_part(tiles):
                dense = _dense(part).weight
                sparse = target.switch(part, own)
                values = None if sparse is None else sparse.values
                _carry_over(dense, values, own, self.block, optimizer)
        self.phase, self._mask = "sparse", None

    def detach(self) -> None:
        """Give the model its own layers back."""
        detach(self.model, self.targets)

    def state_dict(self) -> dict[str, Any]:
        """Phase, selection and values, all that `load_state_dict` needs; it shares their memory."""
        values = {
            part.name: delta.state_dict()
            for part in self.parts
            if (delta := part.linear.delta) is not None
        }
        return {"phase": self.phase, "selection": self.selection, "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over phase, selection and values; parameters are new, so load before optimizers."""
        if state["phase"] == "dense":
            self.start_dense()
            if state["selection"] is not None:
                self.select(self._on_device(state["selection"]))
        elif state["phase"] == "sparse":
            self.start_sparse(self._on_device(state["selection"]))
        for part in self.parts:
            if part.linear.delta is not None:
                part.linear.delta.load_state_dict(state["values"][part.name])

    def _on_device(self, selection: Selection) -> list[Tensor]:
        device = next(self.parts).linear.base.weight.device
        return [tiles.to(device) for tiles in selection]


@contextmanager
def _requiring_gradients(weights: Iterable[Tensor]) -> Iterator[None]:
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _dense(part: Part) -> DenseDelta:
    delta = part.linear.delta
    assert isinstance(delta, DenseDelta), "only in the dense phase"
    return delta


def _carry_over(
    dense: nn.Parameter,
    values: nn.Parameter | None,
    tiles: Tensor,
    block: Block,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Give `values` the selected part of what `dense` has: gradient, optimizer state, its place."""
    if values is not None and dense.grad is not None:
        values.grad = take_tiles(dense.grad, tiles, block)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [
            each for old in group["params"] if (each := values if old is dense else old) is not None
        ]
    state = optimizer.state.pop(dense, None)
    if values is not None and state is not None:
        optimizer.state[values] = {
            name: _carried(entry, dense, tiles, block) for name, entry in state.items()
        }


def _carried(entry: Any, dense: Tensor, tiles: Tensor, block: Block) -> Any:
    """Whatever has the weight's shape is cut down to the tiles; a step count is kept."""
    if isinstance(entry, Tensor) and entry.shape == dense.shape:
        return take_tiles(entry, tiles, block)
    return entry

"""Algorithm 1 of arXiv 2507.07140: the mask is selected again and again in the dense phase.

Every `every` micro-batches of the dense phase (the first epoch) the entries are scored on the
micro-batch just trained on, with the whole dense delta counting; the best are the new mask. The
dense values are never reset. After the phase the mask is fixed and only its values remain. Knows
no loop: who trains calls the two hooks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapters_store.training.errors import InvalidRule
from adapters_store.training.rules import MaskRule
from adapters_store.training.scores import (
    connection_sensitivity,
    gradient_magnitude,
    max_connection_sensitivity,
    uniform,
    weight_magnitude,
)
from adapters_store.training.selection import drop_fraction, grow_and_drop, tile_scores
from adapters_store.training.trainable import LossOf, TrainableDeltas

MICRO_BATCHES_PER_SELECTION = 100


@dataclass(kw_only=True)
class Algorithm1:
    """The schedule of one training.

    `dense_micro_batches` is the length of the dense phase. `one_shot` is the paper's Fig. 8: the
    dense phase has no mask, which is selected once, on the first micro-batch after it.
    """

    deltas: TrainableDeltas  # started dense
    rule: MaskRule
    dense_micro_batches: int
    every: int = MICRO_BATCHES_PER_SELECTION
    one_shot: bool = False
    seed: int = 0
    micro_batches: int = field(default=0, init=False)  # seen in the dense phase
    updates: int = field(default=0, init=False)  # selections made

    def __post_init__(self) -> None:
        if self.rule.is_static:
            raise InvalidRule("score", self.rule.score, "is chosen before training")
        if self.one_shot and self.rule.score == "grow_and_drop":
            raise InvalidRule("one_shot", True, "grow_and_drop exchanges again and again")
        if not self.one_shot and not 1 <= self.every <= self.dense_micro_batches:
            among = f"the dense phase has {self.dense_micro_batches} micro-batches"
            raise InvalidRule("every", self.every, f"no mask would be selected: {among}")

    def after_micro_batch(self, loss_of: LossOf) -> bool:
        """To be called after each micro-batch of the dense phase, and its optimizer step if any.

        `loss_of` computes the loss of that micro-batch again. Tells whether the mask was selected.
        Gradients that are being accumulated are left alone. In the sparse phase it does nothing.
        """
        if self.deltas.phase != "dense":
            return False
        self.micro_batches += 1
        if self.one_shot or self.micro_batches % self.every:
            return False
        self._select(loss_of)
        return True

    @property
    def dense_phase_is_over(self) -> bool:
        """Whether `start_sparse_phase` is due: before the next micro-batch."""
        return self.deltas.phase == "dense" and self.micro_batches >= self.dense_micro_batches

    def start_sparse_phase(
        self, loss_of: LossOf, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """End the dense phase: `TrainableDeltas.switch`.

        `loss_of` is of the next micro-batch; only the one-shot variant computes it.
        """
        if self.one_shot:
            self._select(loss_of)
        self.deltas.switch(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The place in the schedule. The deltas have a state of their own."""
        return {"micro_batches": self.micro_batches, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.micro_batches, self.updates = state["micro_batches"], state["updates"]

    def _select(self, loss_of: LossOf) -> None:
        if self.rule.score == "grow_and_drop":
            selection = self._exchanged(loss_of)
        else:
            selection = self.rule.select(self.deltas.targets, self._scores(loss_of))
        self.deltas.select(selection)
        self.updates += 1

    def _scores(self, loss_of: LossOf) -> Sequence[Tensor]:
        weights = self.deltas.dense_weights()
        if self.rule.score == "weight_magnitude":
            return [weight_magnitude(weight) for weight in weights]
        gradients = self.deltas.dense_gradients(loss_of)
        if self.rule.score == "gradient_magnitude":
            return [gradient_magnitude(gradient) for gradient in gradients]
        signed = self.rule.score == "mcs"
        score = max_connection_sensitivity if signed else connection_sensitivity
        return [score(*pair) for pair in zip(weights, gradients, strict=True)]

    def _exchanged(self, loss_of: LossOf) -> list[Tensor]:
        """Grow and drop: random places at first, then fewer and fewer are exchanged."""
        kept, targets = self.deltas.selection, self.deltas.targets
        if kept is None:
            return self._random()
        fraction = drop_fraction(self.updates, self.dense_micro_batches // self.every)
        sizes = [weight.abs() for weight in self.deltas.dense_weights()]
        gradients = [gradient.abs() for gradient in self.deltas.dense_gradients(loss_of)]
        return [
            grow_and_drop(
                own,
                tile_scores(size, target.block),
                tile_scores(gradient, target.block),
                fraction,
                self.rule.choose,
            )
            for own, target, size, gradient in zip(kept, targets, sizes, gradients, strict=True)
        ]

    def _random(self) -> list[Tensor]:
        source = torch.Generator().manual_seed(self.seed)
        return [
            self.rule.choose(uniform(target.grid, source), self.rule.count(target))
            for target in self.deltas.targets
        ]

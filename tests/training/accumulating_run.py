"""A loop as a trainer's, small: accumulation over micro-batches, and all of its state."""

import io
from typing import Any

import torch
from torch import Tensor
from training_models import backward, lm_loss, mask_of, token_batches

from adapters_store.training.algorithm1 import Algorithm1
from adapters_store.training.rules import LearnedScore, MaskRule
from adapters_store.training.trainable import LossOf, TrainableDeltas

ACCUMULATION, RATE = 3, 0.05


class Run:
    """A loop as a trainer's: accumulation over micro-batches, the switch before the next one."""

    def __init__(self, model: Any, block: tuple[int, int] = (1, 1), **schedule: Any) -> None:
        self.deltas = TrainableDeltas(model, block=block)
        self.deltas.start_dense()
        self.optimizer = self._new_optimizer()
        self.schedule = Algorithm1(deltas=self.deltas, **schedule)
        self.done = 0

    def _new_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.deltas.parameters(), lr=RATE, weight_decay=0.0)

    def micro_batch(self, loss_of: LossOf) -> bool:
        if self.schedule.dense_phase_is_over:
            self.schedule.start_sparse_phase(loss_of, self.optimizer)
        backward(loss_of())
        self.done += 1
        if self.done % ACCUMULATION == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.schedule.after_micro_batch(loss_of)

    def save(self) -> bytes:
        file = io.BytesIO()
        parts = (self.deltas, self.schedule, self.optimizer)
        gradients = [weight.grad for weight in self.deltas.parameters()]
        torch.save([self.done, gradients, *(part.state_dict() for part in parts)], file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        self.done, gradients, deltas, schedule, optimizer = torch.load(io.BytesIO(saved))
        self.deltas.load_state_dict(deltas)
        self.schedule.load_state_dict(schedule)
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(optimizer)
        for weight, gradient in zip(self.deltas.parameters(), gradients, strict=True):
            weight.grad = gradient


def selected(run: Run) -> tuple[Tensor, ...]:
    assert run.deltas.selection is not None
    return run.deltas.selection


def rule(score: LearnedScore = "mcs", keep_ratio: float = 0.25, **scope: Any) -> MaskRule:
    return MaskRule(score=score, keep_ratio=keep_ratio, **scope)


def lm_losses(model: Any, count: int) -> list[LossOf]:
    return [lm_loss(model, token_ids) for token_ids in token_batches(count)]


def masks(deltas: TrainableDeltas) -> list[Any]:
    return [mask_of(part).double().numpy() for part in deltas.parts]

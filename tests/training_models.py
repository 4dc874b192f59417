"""Models and micro-batches that trainings in tests run on: small, seeded, in memory."""

from functools import partial
from typing import Any

import torch
from tiny_models import SEED, VARIATIONS, VOCAB_SIZE
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from adapters_store.training.deltas import DenseDelta
from adapters_store.training.selection import num_tiles
from adapters_store.training.targets import Part
from adapters_store.training.trainable import LossOf, TrainableDeltas


def tiny_causal_lm(variation: str = "phi3-mini", dtype: torch.dtype = torch.float32) -> Any:
    """The model of `make_tiny_checkpoint`, but for its norms, in `dtype`."""
    torch.manual_seed(SEED)
    return AutoModelForCausalLM.from_config(VARIATIONS[variation](), dtype=dtype)


def token_batches(count: int, seed: int = 1) -> list[Tensor]:
    """`count` micro-batches of random tokens, `[2, 9]`."""
    source = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB_SIZE, (2, 9), generator=source) for _ in range(count)]


def lm_loss(model: Any, token_ids: Tensor) -> LossOf:
    return lambda: model(token_ids, labels=token_ids).loss


class Regression(nn.Module):
    """Two linear layers side by side in fp64, `qkv_proj [8, 4]` each, with half the squared error.

    Small enough to be computed by hand: the gradient of a layer's weight is `(y - t)^T x`.
    """

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Module(), nn.Module()
        self.first.qkv_proj = nn.Linear(4, 8, bias=False, dtype=torch.float64)
        self.second.qkv_proj = nn.Linear(4, 8, bias=False, dtype=torch.float64)

    @property
    def layers(self) -> tuple[Any, Any]:
        return self.first.qkv_proj, self.second.qkv_proj

    def loss(self, x: Tensor, t: Tensor) -> Tensor:
        errors = [layer(x) - t for layer in self.layers]
        return sum((0.5 * (error**2).sum() for error in errors), torch.zeros(()))


def regression_batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Micro-batches `(x [3, 4], t [3, 8])`."""
    source = torch.Generator().manual_seed(4)
    randn = partial(torch.randn, generator=source, dtype=torch.float64)
    return [(randn(3, 4), randn(3, 8)) for _ in range(count)]


def regression_loss(model: Regression, batch: tuple[Tensor, Tensor]) -> LossOf:
    return lambda: model.loss(*batch)


def random_tiles(shape: tuple[int, int], ratio: float, block: tuple[int, int]) -> Tensor:
    count = num_tiles(shape, ratio, block)
    grid = shape[0] // block[0] * (shape[1] // block[1])
    source = torch.Generator().manual_seed(9)
    return torch.randperm(grid, generator=source)[:count].sort().values


def random_selection(deltas: TrainableDeltas, ratio: float) -> list[Tensor]:
    return [random_tiles(target.shape, ratio, deltas.block) for target in deltas.targets]


def train(model: Any, optimizer: Any, batches: list[Tensor]) -> None:
    for token_ids in batches:
        backward(lm_loss(model, token_ids)())
        optimizer.step()
        optimizer.zero_grad()


def backward(loss: Tensor) -> None:
    loss.backward()


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def mask_of(part: Part) -> Tensor:
    assert isinstance(part.linear.delta, DenseDelta)
    assert part.linear.delta.mask is not None
    return part.linear.delta.mask

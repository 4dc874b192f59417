"""Algorithm 1 on `Regression`, dense and by hand in numpy: gradients, AdamW, scores and masks.

Shares no code with the package. Its mask only multiplies; nothing is ever taken out.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass
class PlainLayer:
    """One layer: base, delta, mask, the gradient being accumulated and Adam's moments."""

    base: Floats
    delta: Floats
    mask: Floats
    gradient: Floats
    first: Floats
    second: Floats

    def gradient_at(self, x: Floats, t: Floats, mask: Floats) -> Floats:
        error = x @ (self.base + self.delta * mask).T - t
        product: Floats = error.T @ x
        return product


@dataclass
class PlainAlgorithm1:
    """The whole training, one micro-batch at a time."""

    bases: list[Floats]
    keep: int  # entries per layer
    every: int
    dense_micro_batches: int
    accumulation: int
    rate: float
    layers: list[PlainLayer] = field(init=False)
    seen: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        self.layers = [
            PlainLayer(base, *(np.zeros_like(base) for _ in range(5))) for base in self.bases
        ]
        for layer in self.layers:
            layer.mask[:] = 1

    def micro_batch(self, x: Any, t: Any) -> None:
        for layer in self.layers:
            layer.gradient += layer.gradient_at(x, t, layer.mask) * layer.mask
        self.seen += 1
        if self.seen % self.accumulation == 0:
            self._step()
        if self.seen <= self.dense_micro_batches and self.seen % self.every == 0:
            for layer in self.layers:
                self._select(layer, layer.delta * layer.gradient_at(x, t, np.ones_like(layer.mask)))

    def _step(self) -> None:
        self.steps += 1
        for layer in self.layers:
            layer.first = BETAS[0] * layer.first + (1 - BETAS[0]) * layer.gradient
            layer.second = BETAS[1] * layer.second + (1 - BETAS[1]) * layer.gradient**2
            corrected = layer.second / (1 - BETAS[1] ** self.steps)
            mean = layer.first / (1 - BETAS[0] ** self.steps)
            layer.delta = layer.delta - self.rate * mean / (np.sqrt(corrected) + EPSILON)
            layer.gradient = np.zeros_like(layer.gradient)

    def _select(self, layer: PlainLayer, score: Floats) -> None:
        flat = score.reshape(-1)
        order = sorted(range(flat.size), key=lambda place: (-flat[place], place))
        layer.mask = np.zeros_like(layer.mask)
        layer.mask.reshape(-1)[order[: self.keep]] = 1

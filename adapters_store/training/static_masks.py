"""SHiRA's masks: chosen once, before training, from the base and the task's first batches."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from adapters_store.training.errors import InvalidRule
from adapters_store.training.rules import MaskRule
from adapters_store.training.scores import (
    base_magnitude,
    gradient_magnitude,
    snip,
    structure,
    uniform,
)
from adapters_store.training.selection import ranks, tile_scores, top
from adapters_store.training.targets import Target
from adapters_store.training.trainable import LossOf, TrainableDeltas


def static_selection(
    deltas: TrainableDeltas, rule: MaskRule, batches: Iterable[LossOf], seed: int = 0
) -> list[Tensor]:
    """The selection of a static rule, for `TrainableDeltas.start_sparse`.

    `batches` compute the losses whose gradients `grad` and `snip` sum; the others read none.
    Raises InvalidRule for a score that is chosen in training, or where batches are missing.
    """
    if not rule.is_static:
        raise InvalidRule("score", rule.score, "is chosen in training")
    if rule.score == "struct":
        return [_structured(target, rule.count(target)) for target in deltas.targets]
    if rule.score == "random":
        source = torch.Generator().manual_seed(seed)
        tiles = [uniform(target.grid, source) for target in deltas.targets]
        return rule.select_tiles(deltas.targets, tiles)
    return rule.select(deltas.targets, _scores(deltas, rule, batches))


def disjoint_selection(deltas: TrainableDeltas, rule: MaskRule, task: int) -> list[Tensor]:
    """SHiRA's masks for tasks that will be fused: they do not overlap.

    Task t, counted from 1, gets the ranks `(t - 1) K` to `t K` of each layer's entries (tiles) by
    size of the base's weights, K what `rule` keeps. Raises InvalidRule where they have run out.
    """
    if rule.score != "wm" or rule.scope != "layer":
        raise InvalidRule("score", f"{rule.score} by {rule.scope}", "expected wm by layer")
    return [_ranked(target, rule.count(target), task) for target in deltas.targets]


def _ranked(target: Target, count: int, task: int) -> Tensor:
    score = tile_scores(base_magnitude(target.base_weight()).float(), target.block)
    if not 1 <= task <= score.numel() // count:
        among = f"{target.name} has room for {score.numel() // count} disjoint masks"
        raise InvalidRule("task", task, among)
    return ranks(score, (task - 1) * count, task * count)


def _structured(target: Target, count: int) -> Tensor:
    return top(structure(target.grid, count), count)


def _scores(deltas: TrainableDeltas, rule: MaskRule, batches: Iterable[LossOf]) -> Sequence[Tensor]:
    if rule.score == "wm":
        return [base_magnitude(target.base_weight()).float() for target in deltas.targets]
    losses = list(batches)
    if not losses:
        raise InvalidRule("score", rule.score, "needs batches whose gradients it sums")
    gradients = deltas.base_gradients(losses)
    if rule.score == "grad":
        return [gradient_magnitude(gradient) for gradient in gradients]
    weights = [target.base_weight() for target in deltas.targets]
    return [snip(*pair) for pair in zip(weights, gradients, strict=True)]

"""Which tiles to keep by their scores: exact counts, and of equal scores the first.

A cut is asked once for each layer, in order. Scores of zero are never chosen: there is no change.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Cut = Callable[[str, Tensor], Tensor]  # (layer, scores) -> chosen ids, ascending, int64


def nothing_cut() -> Cut:
    """Keeps everything that changed."""
    return lambda layer, scores: (scores > 0).nonzero().flatten()


def cut_for_layer(counts: Mapping[str, int]) -> Cut:
    """Keeps the `counts[layer]` best of each layer."""

    def choose(layer: str, scores: Tensor) -> Tensor:
        return _above(scores, *_threshold([scores], counts[layer]))

    return choose


def cut_for_all(scores: Iterable[Tensor], count: int) -> Cut:
    """Keeps the `count` best of all layers together, whose scores are given once before."""
    least, ties = _threshold(scores, count)

    def choose(layer: str, scores: Tensor) -> Tensor:
        nonlocal ties
        chosen = _above(scores, least, ties)
        ties -= int((scores[chosen] == least).sum())
        return chosen

    return choose


def _threshold(scores: Iterable[Tensor], count: int) -> tuple[float, int]:
    """The least score among the `count` best, and how many that have just this score belong."""
    best = torch.empty(0, dtype=torch.float64)
    for some in scores:
        candidates = torch.cat([best, some[some > 0]])
        best = candidates.topk(min(count, len(candidates))).values
    if not len(best):
        return float("inf"), 0
    least = float(best[-1])
    return least, int((best == least).sum())


def _above(scores: Tensor, least: float, ties: int) -> Tensor:
    tied = (scores == least).nonzero().flatten()[:ties]
    return torch.cat([(scores > least).nonzero().flatten(), tied]).sort().values

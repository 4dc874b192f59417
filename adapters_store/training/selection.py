"""From scores to the places that are kept: exact counts, ties to the lowest index.

Everything counts in tiles, `[out / Br, in / Bc]`: a single entry is a tile of (1, 1), whose id is
its flat, row-major index. Answers are int64 tile ids, sorted and unique. Pure functions; they know
no model.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adapters_store.training.errors import InvalidRule, NothingSelected, ScoreNotFinite

Choice = Callable[[Tensor, int], Tensor]  # (score, count) -> places
INITIAL_DROP_FRACTION = 0.2  # the paper's gamma


def num_tiles(shape: tuple[int, int], keep_ratio: float, block: tuple[int, int]) -> int:
    """Tiles to keep of a matrix `[out, in]`: `int(k / (Br * Bc))` with `k = int(numel * ratio)`."""
    if not 0 < keep_ratio <= 1:
        raise InvalidRule("keep_ratio", keep_ratio, "is not in (0, 1]")
    count = int(shape[0] * shape[1] * keep_ratio) // (block[0] * block[1])
    if count == 0:
        raise NothingSelected(keep_ratio, shape)
    return count


def tile_scores(score: Tensor, block: tuple[int, int]) -> Tensor:
    """Each tile's score, the sum of its entries': `[out, in] -> [out / Br, in / Bc]`."""
    if block == (1, 1):
        return score
    rows, columns = score.shape[0] // block[0], score.shape[1] // block[1]
    return score.reshape(rows, block[0], columns, block[1]).sum((1, 3))


def top(score: Tensor, count: int) -> Tensor:
    """The `count` largest of `score`, which may have any shape."""
    flat = _comparable(score)
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=flat.device)
    threshold = flat.topk(count).values[-1]
    kept = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return kept.nonzero().flatten()


def top_global(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` largest of all scores together; a layer may get none. Ties: earlier layers."""
    kept = top(torch.cat([score.reshape(-1) for score in scores]), count)
    found, first = [], 0
    for score in scores:
        inside = (kept >= first) & (kept < first + score.numel())
        found.append(kept[inside] - first)
        first += score.numel()
    return found


def top_per_row(score: Tensor, count: int) -> Tensor:
    """`count // rows` in every (tile) row: the largest of each."""
    rows, columns = score.shape
    per_row = count // rows
    _comparable(score)
    order = score.sort(dim=1, descending=True, stable=True).indices[:, :per_row]
    first = torch.arange(rows, device=score.device)[:, None] * columns
    return (order + first).reshape(-1).sort().values


def layer_drop(scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Whole layers left out, as the paper's code has it (eq. 5 and 6).

    The threshold is the K-th largest score of the model, K the sum of `counts`. A layer in which
    the share of scores that reach it is at least the layer's own share (`count / numel`) keeps its
    own top `count`; the others keep nothing.
    """
    together = torch.cat([_comparable(score) for score in scores])
    threshold = together.topk(sum(counts)).values[-1]
    return [
        top(score, count if int((score >= threshold).sum()) >= count else 0)
        for score, count in zip(scores, counts, strict=True)
    ]


def ranks(score: Tensor, first: int, last: int) -> Tensor:
    """Ranks `first` to `last` (not included) of the order largest first, ties by index."""
    kept = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    kept[top(score, last)] = True
    kept[top(score, first)] = False
    return kept.nonzero().flatten()


def drop_fraction(update: int, num_updates: int, gamma: float = INITIAL_DROP_FRACTION) -> float:
    """The share that grow-and-drop exchanges: `gamma * (1 - t / T)`, falling to none."""
    return gamma * (1 - update / num_updates)


def grow_and_drop(
    kept: Tensor, size: Tensor, gradient: Tensor, fraction: float, choose: Choice = top
) -> Tensor:
    """RigL's exchange: of the `kept`, the `int(len * fraction)` smallest go, as many others come.

    `size` is |Ŵ| and decides what goes, `gradient` is |g| and decides what comes. Only places that
    were not kept come, so nothing comes back in the exchange that it goes in. `choose` is `top`,
    or `top_per_row` where rows are balanced.
    """
    is_kept = torch.zeros_like(size, dtype=torch.bool)
    is_kept.view(-1)[kept] = True
    count = min(int(len(kept) * fraction), size.numel() - len(kept))
    low = torch.finfo(size.dtype).min
    dropped = choose(torch.where(is_kept, -size, low), count)
    grown = choose(torch.where(is_kept, low, gradient), count)
    is_kept.view(-1)[dropped], is_kept.view(-1)[grown] = False, True
    return is_kept.view(-1).nonzero().flatten()


def _comparable(score: Tensor) -> Tensor:
    """The score as one dimension; ScoreNotFinite where it is no number."""
    flat = score.reshape(-1)
    if wrong := int(flat.isnan().sum()):
        raise ScoreNotFinite(wrong)
    return flat

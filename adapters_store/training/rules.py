"""Which places an adapter may change: a rule that joins a score, a keep ratio and a scope.

Rules are for both ways to choose: again and again in training (Algorithm 1, scores of the delta),
or once before it (SHiRA's static masks, scores of the base).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from adapters_store.training.errors import InvalidRule, NothingSelected
from adapters_store.training.selection import (
    Choice,
    layer_drop,
    num_tiles,
    tile_scores,
    top,
    top_global,
    top_per_row,
)
from adapters_store.training.targets import Target

LearnedScore = Literal["mcs", "cs", "gradient_magnitude", "weight_magnitude", "grow_and_drop"]
StaticScore = Literal["struct", "random", "wm", "grad", "snip"]
Scope = Literal["layer", "model", "row", "layer_drop"]
# An exchange keeps each layer's count; a structure is one of whole rows.
_SCOPES: Mapping[str, tuple[str, ...]] = {"grow_and_drop": ("layer", "row"), "struct": ("layer",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRule:
    """Keep `keep_ratio` of the entries, those with the largest `score`.

    `scope` says among which: each layer's own, the whole model's, each row's (as many in every
    tile row: "row balanced"), or each layer's own in those layers that layer drop leaves. The size
    of the tiles is that of the `TrainableDeltas`. Raises InvalidRule.
    """

    score: LearnedScore | StaticScore
    keep_ratio: float
    scope: Scope = "layer"

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise InvalidRule("keep_ratio", self.keep_ratio, "is not in (0, 1]")
        if self.score not in get_args(LearnedScore) + get_args(StaticScore):
            raise InvalidRule("score", self.score, "is unknown")
        if self.scope not in get_args(Scope):
            raise InvalidRule("scope", self.scope, "is unknown")
        if self.scope not in _SCOPES.get(self.score, get_args(Scope)):
            raise InvalidRule("scope", self.scope, f"{self.score} has no such form")

    @property
    def is_static(self) -> bool:
        """Whether the mask is chosen once, before training."""
        return self.score in get_args(StaticScore)

    def count(self, target: Target) -> int:
        """Tiles to keep of `target`, by rows as many in each. Raises NothingSelected."""
        count = num_tiles(target.shape, self.keep_ratio, target.block)
        if self.scope != "row":
            return count
        num_rows, _ = target.grid
        if count < num_rows:
            raise NothingSelected(self.keep_ratio, (target.block[0], target.shape[1]))
        return count - count % num_rows

    def select(self, targets: Sequence[Target], scores: Sequence[Tensor]) -> list[Tensor]:
        """The selection of entry scores, one `[rows, in]` per target."""
        tiles = [
            tile_scores(score, target.block) for score, target in zip(scores, targets, strict=True)
        ]
        return self.select_tiles(targets, tiles)

    def select_tiles(self, targets: Sequence[Target], tiles: Sequence[Tensor]) -> list[Tensor]:
        """The selection of tile scores, one grid per target."""
        counts = [self.count(target) for target in targets]
        if self.scope == "model":
            return top_global(tiles, sum(counts))
        if self.scope == "layer_drop":
            return layer_drop(tiles, counts)
        return [self.choose(grid, count) for grid, count in zip(tiles, counts, strict=True)]

    @property
    def choose(self) -> Choice:
        """The choice in one layer."""
        return top_per_row if self.scope == "row" else top

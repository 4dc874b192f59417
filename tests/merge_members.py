"""Random members of a merge, of every kind, with the numbers that trip naive code."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from adapters_store.adapter import (
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)
from adapters_store.canonical import round_to_fp32
from adapters_store.merging.layer import LayerInput

LAYER = "model.layers.0.self_attn.qkv_proj"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Exactly representable in 16 bits, with ties, zeros and sums that cancel.
LATTICE = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])


@dataclass(frozen=True)
class Draft:
    """How one member's delta is made."""

    kind: str
    shape: tuple[int, int]
    seed: int
    keep_ratio: float = 0.3
    lattice: bool = False
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    block: tuple[int, int] = (16, 16)
    row_stride: int = 1

    def make(self) -> WeightDelta | None:
        """The delta; None for a draft of kind "absent"."""
        if self.kind == "absent":
            return None
        source = torch.Generator().manual_seed(self.seed)
        made: WeightDelta = getattr(self, f"_{self.kind}")(source)
        return made

    @property
    def _common(self) -> dict[str, Any]:
        return {"layer": LAYER, "shape": self.shape, "scale": self.scale}

    def _values(self, source: torch.Generator, *shape: int) -> Tensor:
        if self.lattice:
            chosen = torch.randint(len(LATTICE), shape, generator=source)
            return LATTICE[chosen].to(self.dtype)
        return torch.randn(shape, generator=source).to(self.dtype)

    def _places(self, source: torch.Generator, count: int) -> Tensor:
        kept = max(1, int(count * self.keep_ratio))
        return torch.randperm(count, generator=source)[:kept].sort().values.int()

    def _element(self, source: torch.Generator) -> WeightDelta:
        indices = self._places(source, self.shape[0] * self.shape[1])
        values = self._values(source, len(indices))
        return ElementDelta(**self._common, indices=indices, values=values)

    def _block(self, source: torch.Generator) -> WeightDelta:
        tiles = self._places(
            source, self.shape[0] * self.shape[1] // self.block[0] // self.block[1]
        )
        return BlockDelta(
            **self._common,
            block=self.block,
            block_index=tiles,
            values=self._values(source, len(tiles), *self.block),
            row_stride=self.row_stride,
        )

    def _low_rank(self, source: torch.Generator) -> WeightDelta:
        a, b = self._values(source, 2, self.shape[1]), self._values(source, self.shape[0], 2)
        return LowRankDelta(**self._common, a=a, b=b)

    def _dense(self, source: torch.Generator) -> WeightDelta:
        return DenseDelta(**self._common, delta=self._values(source, *self.shape))


SHAPE = (48, 16)  # in tiles of 16 x 16, strided by 3, or of 1 x 16 and 4 x 8
BLOCKS = st.sampled_from([((16, 16), 1), ((16, 16), 3), ((1, 16), 1), ((4, 8), 1), ((4, 8), 3)])
WEIGHTS = st.sampled_from([1.0, 1.0, 0.5, -1.0, 0.0, 0.3]) | st.floats(-3, 3, width=32)
SCALES = st.sampled_from([1.0, 1.0, 2.0, 0.3, -0.75])


@st.composite
def drafts(draw: st.DrawFn, kinds: st.SearchStrategy[str]) -> Draft:
    block, row_stride = draw(BLOCKS)
    return Draft(
        kind=draw(kinds),
        shape=SHAPE,
        seed=draw(st.integers(0, 5)),  # so that copies and equal masks happen
        keep_ratio=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        lattice=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
        scale=draw(SCALES),
        block=block,
        row_stride=row_stride,
    )


KINDS = st.sampled_from(["element", "block", "low_rank", "dense", "absent", "element", "block"])


@st.composite
def one_grid(draw: st.DrawFn, least: int, most: int) -> list[Draft]:
    """Block members on one grid."""
    first = draw(drafts(st.just("block")))
    seeds = draw(st.lists(st.integers(0, 20), min_size=least, max_size=most))
    return [Draft(**{**vars(first), "seed": seed}) for seed in seeds]


def members(least: int = 1, most: int = 5) -> st.SearchStrategy[list[Draft]]:
    """`least` to `most` members: of mixed kinds, of elements only, or tiles of one grid."""
    mixed = st.lists(drafts(KINDS), min_size=least, max_size=most)
    elements = st.lists(drafts(st.just("element")), min_size=least, max_size=most)
    return mixed | elements | one_grid(least, most)


def inputs(made: list[Draft], weights: list[float]) -> list[LayerInput]:
    """The drafts as members, named by their digests."""
    return [
        _input(draft.make(), round_to_fp32(weight))
        for draft, weight in zip(made, weights, strict=True)
    ]


def _input(delta: WeightDelta | None, weight: float) -> LayerInput:
    return LayerInput(delta.digest if delta else "absent", weight, delta)

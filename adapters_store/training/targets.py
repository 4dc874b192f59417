"""The linear layers of a model that are trained, by their logical Phi-3 names.

A model may have q, k, v (or gate, up) as layers of their own. They are the rows of one logical
layer, so everything above this file sees one matrix: the rows that are trained, stacked. Knows no
scores and no optimizer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters_store.training.deltas import (
    ELEMENT,
    Block,
    DeltaLinear,
    DenseDelta,
    SparseDelta,
    mark_tiles,
    take_tiles,
)
from adapters_store.training.errors import BlockMisfit, NoTarget

DEFAULT_TARGET = r".*qkv_proj"
# Logical suffix -> the suffixes of the layers that are its rows, in order.
SPLIT_LAYERS: Mapping[str, tuple[str, ...]] = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A linear layer of the model, which is rows `first_row...` of its logical layer."""

    name: str  # the module's own
    linear: DeltaLinear
    first_row: int


@dataclass(frozen=True, slots=True)
class Target:
    """A logical layer in training.

    Its matrix is `[rows, in]`: the rows of its trained parts, stacked. Tile ids count in it.
    """

    name: str  # logical
    layers: tuple[nn.Linear, ...]  # the logical layer's, in order, whether trained or not
    parts: tuple[Part, ...]
    block: Block

    @property
    def full_shape(self) -> tuple[int, int]:
        """Of the logical layer."""
        return sum(each.out_features for each in self.layers), self.layers[0].in_features

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return sum(part.linear.shape[0] for part in self.parts), self.full_shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Tile rows and tile columns of the matrix."""
        return self.shape[0] // self.block[0], self.shape[1] // self.block[1]

    @property
    def rows(self) -> Tensor:
        """The logical layer's row of every row of the matrix."""
        spans = [range(p.first_row, p.first_row + p.linear.shape[0]) for p in self.parts]
        return torch.tensor([row for span in spans for row in span])

    def full_weight(self) -> Tensor:
        """The base's weight of the logical layer."""
        return _stacked([each.weight.detach() for each in self.layers])

    def base_weight(self) -> Tensor:
        """The base's weight of the matrix."""
        return _stacked([part.linear.base.weight.detach() for part in self.parts])

    def stack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The parts' matrices, by the parts' names, as one."""
        return _stacked([tensors[part.name] for part in self.parts])

    def by_part(self, tiles: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """Each part with those of the (sorted) tile ids that lie in it, counted from its start."""
        first, per_row = 0, self.grid[1]
        for part in self.parts:
            last = first + part.linear.shape[0] // self.block[0] * per_row
            yield part, tiles[(tiles >= first) & (tiles < last)] - first
            first = last

    def make_dense(self) -> None:
        """Begin the dense phase: a delta of zeros, without a mask."""
        for part in self.parts:
            zeros = torch.zeros_like(part.linear.base.weight, dtype=part.linear.delta_dtype)
            part.linear.delta = DenseDelta(zeros)

    def select(self, tiles: Tensor) -> None:
        """Mask the dense deltas: only `tiles` count. What they hold elsewhere stays."""
        for part, own in self.by_part(tiles):
            dense = part.linear.delta
            assert isinstance(dense, DenseDelta), "masks are selected in the dense phase"
            dense.mask = torch.zeros_like(dense.weight, dtype=torch.bool)
            mark_tiles(dense.mask, own, self.block)

    def make_sparse(self, tiles: Tensor) -> None:
        """Begin the sparse phase: zeros at `tiles`, no delta where a part has none."""
        for part, own in self.by_part(tiles):
            linear, form = part.linear, () if self.block == ELEMENT else self.block
            weight = linear.base.weight
            zeros = weight.new_zeros((len(own), *form), dtype=linear.delta_dtype)
            linear.delta = SparseDelta(zeros, own, linear.shape, self.block) if len(own) else None

    def fill(self, weight: Tensor) -> None:
        """Give the deltas what `weight`, a matrix, has at their places."""
        sizes = [part.linear.shape[0] for part in self.parts]
        for part, own in zip(self.parts, weight.split(sizes), strict=True):
            if part.linear.delta is not None:
                part.linear.delta.fill(own)

    def sparse_tiles(self) -> Tensor:
        """Tile ids of the sparse deltas."""
        first, found = 0, [torch.empty(0, dtype=torch.int64, device=self.device)]
        for part in self.parts:
            if isinstance(delta := part.linear.delta, SparseDelta):
                found.append(delta.tiles + first)
            first += part.linear.shape[0] // self.block[0] * self.grid[1]
        return torch.cat(found)

    def sparse_values(self) -> Tensor:
        """The values of the sparse deltas, detached."""
        deltas = [part.linear.delta for part in self.parts]
        found = [delta.values.detach() for delta in deltas if isinstance(delta, SparseDelta)]
        return torch.cat(found) if found else torch.empty(0, device=self.device)

    @property
    def device(self) -> torch.device:
        return self.layers[0].weight.device

    def switch(self, part: Part, own: Tensor) -> SparseDelta | None:
        """Leave of the dense delta of `part` its values at `own` tiles; nothing if none are."""
        dense = part.linear.delta
        assert isinstance(dense, DenseDelta), "the dense phase ends once"
        part.linear.delta = None
        if len(own):
            values = take_tiles(dense.weight.detach(), own, self.block)
            part.linear.delta = SparseDelta(values, own, part.linear.shape, self.block)
        return part.linear.delta


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def attach(
    model: nn.Module, target: str = DEFAULT_TARGET, block: Block = ELEMENT
) -> tuple[Target, ...]:
    """Freeze `model` and put a `DeltaLinear`, yet without a delta, around each target layer.

    `target` is a regular expression for the whole of a layer's own or logical name: `.*qkv_proj`
    finds q_proj, k_proj and v_proj too. Targets come in the model's order. Raises NoTarget and
    BlockMisfit.
    """
    model.requires_grad_(False)
    linears = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    parts: dict[str, list[Part]] = {}
    layers: dict[str, tuple[nn.Linear, ...]] = {}
    for name, linear in linears.items():
        logical, rows_of = _logical(name, linears)
        if re.fullmatch(target, name) or re.fullmatch(target, logical):
            layers[logical] = rows_of
            parts.setdefault(logical, []).append(_part(name, linear, rows_of))
    if not parts:
        raise NoTarget(target)
    found = tuple(Target(name, layers[name], _in_order(parts[name]), block) for name in parts)
    _check_blocks(found)
    for each in found:
        for part in each.parts:
            model.set_submodule(part.name, part.linear)
    return found


def detach(model: nn.Module, targets: Sequence[Target]) -> None:
    """Put the model's own layers back."""
    for target in targets:
        for part in target.parts:
            model.set_submodule(part.name, part.linear.base)


def _in_order(parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: part.first_row))


def _part(name: str, linear: nn.Linear, layers: Sequence[nn.Linear]) -> Part:
    before = next(i for i, each in enumerate(layers) if each is linear)
    first_row = sum(each.out_features for each in layers[:before])
    return Part(name, DeltaLinear(linear), first_row)


def _logical(name: str, linears: Mapping[str, nn.Linear]) -> tuple[str, tuple[nn.Linear, ...]]:
    """The name of the logical layer that `name` is (of), and the linear layers of its rows."""
    for fused, split in SPLIT_LAYERS.items():
        for suffix in split:
            stem = name.removesuffix(suffix)
            names = [stem + each for each in split]
            if name.endswith(f".{suffix}") and all(each in linears for each in names):
                return stem + fused, tuple(linears[each] for each in names)
    return name, (linears[name],)


def _check_blocks(targets: Sequence[Target]) -> None:
    for target in targets:
        for part in target.parts:
            (height, width), (rows, columns) = target.block, part.linear.shape
            if rows % height or part.first_row % height or columns % width:
                raise BlockMisfit(part.name, part.linear.shape, target.block)

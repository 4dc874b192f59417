"""A fine-tuned checkpoint minus its base, as an adapter that keeps the largest changes.

Works layer by layer: never more than one layer of each checkpoint is in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import LowRankDelta, SparseAdapter, WeightDelta
from adapters_store.converters.patterns import element_delta, tile_delta
from adapters_store.errors import AdapterRefused
from offline.base import Base
from offline.choosing import Cut, cut_for_all, cut_for_layer, nothing_cut

BLOCKS = {"element": (1, 1), "row_block": (1, 16), "block": (16, 16)}


@dataclass(frozen=True, slots=True)
class Keeping:
    """What an adapter keeps: a share of the entries, the layer's or the model's largest, or all."""

    kind: str  # a key of BLOCKS
    share: float | None  # of the entries; None keeps every change
    of_model: bool = False


@dataclass(frozen=True, slots=True)
class LayerExtract:
    """What became of one layer's change. Energy is the sum of squares."""

    layer: str
    delta: WeightDelta | None  # None where nothing changed or nothing was kept
    kept: float
    energy: float
    inexact: int = 0  # entries where base + kept change is not quite the fine-tuned value, in fp32


@dataclass(frozen=True, slots=True)
class Change:
    """Reads what fine-tuning did to a layer."""

    base: Base
    tuned: Base

    def __post_init__(self) -> None:
        if self.base.shapes != self.tuned.shapes:
            raise AdapterRefused([f"{self.tuned.directory}: has layers of other names or shapes"])

    def of(self, layer: str) -> Tensor:
        """Fine-tuned minus base, each widened to fp32."""
        return self.tuned.weight(layer) - self.base.weight(layer)

    def inexact(self, layer: str, change: Tensor) -> int:
        sums = self.base.weight(layer) + change
        return int((sums != self.tuned.weight(layer)).sum())

    def elsewhere(self) -> list[str]:
        """Changed tensors that no adapter can hold: norms, embeddings."""
        with self.base.other_tensors() as before, self.tuned.other_tensors() as after:
            return [
                name
                for name in sorted(before.keys() | after.keys())
                if name not in before
                or name not in after
                or not torch.equal(before[name].read(name), after[name].read(name))
            ]


def extract_entries(change: Change, layers: Sequence[str], keeping: Keeping) -> list[LayerExtract]:
    """The largest changes of each of `layers`; of equal ones the first."""
    block = BLOCKS[keeping.kind]
    _check_divides(change.base, layers, block)

    def scores(layer: str) -> Tensor:
        return tile_energy(change.of(layer), block)

    cut = _cut(change.base, layers, keeping, scores)
    return [_entries_of(change, layer, keeping, cut) for layer in layers]


def _cut(
    base: Base, layers: Sequence[str], keeping: Keeping, scores: Callable[[str], Tensor]
) -> Cut:
    if keeping.share is None:
        return nothing_cut()
    rows, columns = BLOCKS[keeping.kind]
    sizes = {layer: base.shapes[layer][0] * base.shapes[layer][1] for layer in layers}
    counts = {layer: int(size * keeping.share) // (rows * columns) for layer, size in sizes.items()}
    if keeping.of_model:
        return cut_for_all((scores(layer) for layer in layers), sum(counts.values()))
    return cut_for_layer(counts)


def _check_divides(base: Base, layers: Sequence[str], block: tuple[int, int]) -> None:
    rows, columns = block
    shapes = {layer: base.shapes[layer] for layer in layers}
    wrong = [
        f"{n}: {rows} x {columns} tiles do not divide {s}"
        for n, s in shapes.items()
        if s[0] % rows or s[1] % columns
    ]
    if wrong:
        raise AdapterRefused(wrong)


def tile_energy(change: Tensor, block: tuple[int, int]) -> Tensor:
    """Sum of squares of each tile, by tile id, fp64."""
    rows, columns = block
    squares = change.double().square()
    tiles = squares.view(change.shape[0] // rows, rows, change.shape[1] // columns, columns)
    return tiles.sum((1, 3)).flatten()


def _entries_of(change: Change, layer: str, keeping: Keeping, cut: Cut) -> LayerExtract:
    values, block = change.of(layer), BLOCKS[keeping.kind]
    scores = tile_energy(values, block)
    chosen = cut(layer, scores)
    kept, energy = float(scores[chosen].sum()), float(scores.sum())
    inexact = change.inexact(layer, values) if keeping.share is None else 0
    delta = _delta(layer, values, block, chosen) if len(chosen) else None
    return LayerExtract(layer, delta, kept, energy, inexact)


def _delta(layer: str, values: Tensor, block: tuple[int, int], chosen: Tensor) -> WeightDelta:
    shape = (values.shape[0], values.shape[1])
    if block == (1, 1):
        return element_delta(layer, shape, chosen, values.flatten()[chosen])
    rows, columns = block
    tiles = values.view(shape[0] // rows, rows, shape[1] // columns, columns)
    tiles = tiles.transpose(1, 2).reshape(-1, rows, columns)
    return tile_delta(layer, shape, block, chosen, tiles[chosen])


def extract_low_rank(change: Change, layers: Sequence[str], rank: int) -> list[LayerExtract]:
    """PHLoRA: the best approximation of each change by `rank`, from its singular values."""
    return [_low_rank_of(change, layer, rank) for layer in layers]


def _low_rank_of(change: Change, layer: str, rank: int) -> LayerExtract:
    values = change.of(layer)
    if not values.any():
        return LayerExtract(layer, None, 0.0, 0.0)
    u, sigma, vh = torch.linalg.svd(values.double(), full_matrices=False)
    energies, root = sigma.square(), sigma[:rank].sqrt()
    delta = LowRankDelta(
        layer=layer,
        shape=(values.shape[0], values.shape[1]),
        a=(root[:, None] * vh[:rank]).float(),
        b=(u[:, :rank] * root).float(),
    )
    return LayerExtract(layer, delta, float(energies[:rank].sum()), float(energies.sum()))


def as_adapter(
    base: Base, extracts: Sequence[LayerExtract], notes: Mapping[str, str]
) -> SparseAdapter:
    """The kept changes as one adapter; AdapterRefused if there are none."""
    deltas = sorted((x.delta for x in extracts if x.delta), key=lambda delta: delta.layer)
    if not deltas:
        raise AdapterRefused(["nothing to keep: no chosen layer differs from the base"])
    digests = {delta.layer: base.identity.layers[delta.layer].digest for delta in deltas}
    return SparseAdapter(base.identity.name, digests, tuple(deltas), notes)

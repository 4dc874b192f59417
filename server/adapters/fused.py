"""Which composition is in the base's weights: written entry by entry, undone to the bit.

    W[places] = round(fp32(W[places]) + sum of fp32(coefficient * scale) * values)

summed in fp32 in the order of the members' digests. All base values that are to be overwritten are
saved before the first is; the journal of a layer is dropped once the layer is the base's again. So
whatever goes wrong, and wherever, `undo` finds what leads back to the base.

Knows neither requests nor when to switch. For one thread.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapters_store.adapter import ElementDelta
from adapters_store.canonical import round_to_fp32
from server.adapters.composition import BASE, Composition
from server.adapters.delta import ResidentAdapter
from server.adapters.errors import RoundedAway
from server.kernels.interface import Kernels, Operand

CORRECTION = "fused:"  # before the digest of what a correction takes away again
MAX_INT32 = 2**31 - 1
PLACE_BYTES = 8
ROUNDING_BYTES = 8  # of an entry that undoes rounding: its column and an fp32 value
START_BYTES = 4  # of a row of such entries

Members = Sequence[tuple[ResidentAdapter, float]]


class Fused(NamedTuple):
    """What is in the weights, and what a token adds that is not to be computed with it.

    The weights differ from the base's by the composition's deltas, rounded to the weights' dtype.
    The corrections are the same deltas with the opposite sign; and on 16-bit weights, which round
    coarsely, what rounding did.
    """

    composition: Composition = BASE
    corrections: tuple[tuple[ResidentAdapter, float], ...] = ()


UNFUSED = Fused()


class _Numbers(NamedTuple):
    """Numbers of one weight: those saved, or what changes them."""

    places: Tensor  # [n] int64
    values: Tensor  # [n]


class FusedWeights:
    """The weights that may be written, by layer. While nothing is fused they are the base's."""

    def __init__(self, weights: Mapping[str, Tensor], kernels: Kernels) -> None:
        """`weights` as packed by `kernels`; layers that are not among them never fuse."""
        self.now = UNFUSED
        self._weights = weights
        self._kernels = kernels
        self._journal: dict[str, _Numbers] = {}  # base values of what may be overwritten

    def warm_up(self) -> None:
        """Do ahead what the first switch would wait for: write into a weight of every shape."""
        shapes = {weight.shape: layer for layer, weight in self._weights.items()}
        for layer in shapes.values():
            weight = self._weights[layer]
            corner = torch.zeros(1, dtype=torch.int32)
            shape = (weight.shape[0], weight.shape[1])
            change = ElementDelta(layer=layer, shape=shape, indices=corner, values=torch.ones(1))
            adapter = ResidentAdapter("", {layer: (self._kernels.operand(change),)}, 0)
            self.switch(BASE, [(adapter, 1.0)])
            self.undo()

    def journal_bytes(self, entries: Mapping[str, int]) -> int:
        """Bytes that are held while an adapter is fused that changes so many `entries` by layer.

        Of each a place and the base's number; on weights of 16 bits what undoes the rounding too,
        as `ReferenceKernels` lay it out. Less is held of several adapters that share places.
        """
        return sum(self._layer_bytes(layer, count) for layer, count in entries.items())

    @property
    def num_bytes(self) -> int:
        """Bytes of the journal now; may be asked from any thread."""
        return sum(own.places.nbytes + own.values.nbytes for own in list(self._journal.values()))

    def _layer_bytes(self, layer: str, count: int) -> int:
        if (weight := self._weights.get(layer)) is None:
            return 0  # never fused
        saved = count * (PLACE_BYTES + weight.dtype.itemsize)
        if weight.dtype == torch.float32:
            return saved
        return saved + count * ROUNDING_BYTES + START_BYTES * (weight.shape[0] + 1)

    def refusal(self, composition: Composition, members: Members) -> str | None:
        """Why `composition`, of these resident adapters, cannot be fused; None if it can be."""
        if composition.router is not None:
            return "a router's shares differ from token to token"
        for adapter, _ in members:
            for layer, operands in adapter.operands.items():
                if layer not in self._weights:
                    return f"{layer} is tied to another weight, or not to be written"
                if not all(map(self._kernels.can_fuse, operands)):
                    return f"{layer} is changed by a product or a bias, not entry by entry"
        return None

    def switch(
        self, composition: Composition, members: Members, worst_error: float | None = None
    ) -> None:
        """Have `composition` in the weights, of `members` without `refusal`, instead of what is.

        Base values at the same places as before are not restored in between. With a `worst_error`,
        raises RoundedAway where |rounding| > worst_error * |change|, over all layers. After any
        error nothing is fused, or `undo` is to be called until it succeeds.
        """
        self.now = UNFUSED
        try:
            self._write(self._plan(members), worst_error)
        except BaseException:
            self.undo()
            raise
        self.now = Fused(composition, self._corrections(members))

    def undo(self) -> None:
        """Make the weights the base's again, to the bit. May be called at any time."""
        self.now = UNFUSED
        self._restore(list(self._journal))

    def _plan(self, members: Members) -> dict[str, _Numbers]:
        """What changes, by layer, in fp32."""
        layers = {layer for adapter, _ in members for layer in adapter.operands}
        return {layer: self._change(layer, members) for layer in sorted(layers)}

    def _change(self, layer: str, members: Members) -> _Numbers:
        changes = [
            self._change_by(layer, operand, coefficient)
            for adapter, coefficient in members
            for operand in adapter.operands.get(layer, ())
        ]
        return changes[0] if len(changes) == 1 else _summed(changes)

    def _change_by(self, layer: str, operand: Operand, coefficient: float) -> _Numbers:
        entries = self._kernels.entries(operand, self._weights[layer])
        factor = round_to_fp32(coefficient * entries.scale)
        return _Numbers(entries.places, factor * entries.values)

    def _write(self, plan: Mapping[str, _Numbers], worst_error: float | None) -> None:
        self._restore([layer for layer in self._journal if not self._is_saved(layer, plan)])
        self._save(plan)
        if worst_error is not None:
            self._check_rounding(plan, worst_error)
        for layer, change in plan.items():
            places, base = self._journal[layer]
            self._kernels.write(self._weights[layer], places, _changed(base, change))

    def _is_saved(self, layer: str, plan: Mapping[str, _Numbers]) -> bool:
        return layer in plan and torch.equal(self._journal[layer].places, plan[layer].places)

    def _save(self, plan: Mapping[str, _Numbers]) -> None:
        for layer, (places, _) in plan.items():
            if layer not in self._journal:
                base = self._kernels.read(self._weights[layer], places)
                self._journal[layer] = _Numbers(places, base)

    def _restore(self, layers: Sequence[str]) -> None:
        for layer in layers:
            self._kernels.write(self._weights[layer], *self._journal[layer])
            del self._journal[layer]

    def _check_rounding(self, plan: Mapping[str, _Numbers], worst_error: float) -> None:
        error = change = 0.0
        for layer, own in plan.items():
            error += float(_rounding(self._journal[layer].values, own).square().sum())
            change += float(own.values.square().sum())
        if error > worst_error**2 * change:
            raise RoundedAway((error / change) ** 0.5, worst_error)

    # Corrections

    def _corrections(self, members: Members) -> tuple[tuple[ResidentAdapter, float], ...]:
        opposite = tuple(
            (ResidentAdapter(CORRECTION + adapter.digest, adapter.operands, 0), -coefficient)
            for adapter, coefficient in members
        )
        coarse = [layer for layer in self._journal if self._weights[layer].dtype != torch.float32]
        if not coarse:
            return opposite
        rounding = {layer: (self._rounded(layer, members),) for layer in coarse}
        return (*opposite, (ResidentAdapter(CORRECTION, rounding, 0), -1.0))

    def _rounded(self, layer: str, members: Members) -> Operand:
        """What rounding did to a plain weight of 16 bits, as one more delta.

        Deltas are laid out on the host, whatever device their numbers were found on.
        """
        weight, change = self._weights[layer], self._change(layer, members)
        places, order = change.places.sort()
        is_wide = weight.numel() > MAX_INT32
        values = _rounding(self._journal[layer].values, change)[order]
        delta = ElementDelta(
            layer=layer,
            shape=(weight.shape[0], weight.shape[1]),
            indices=(places if is_wide else places.int()).cpu(),
            values=values.cpu(),
        )
        return self._kernels.operand(delta)


def _changed(base: Tensor, change: _Numbers) -> Tensor:
    return (base.float() + change.values).to(base.dtype)


def _rounding(base: Tensor, change: _Numbers) -> Tensor:
    """What is too much in `_changed`, in fp32."""
    return _changed(base, change).float() - base.float() - change.values


def _summed(changes: Sequence[_Numbers]) -> _Numbers:
    """Changes of one weight as one: those of the same place are added in the order given."""
    places, inverse = torch.cat([each.places for each in changes]).unique(return_inverse=True)
    total = torch.zeros(len(places), device=places.device)
    for at, change in zip(inverse.split([len(c.places) for c in changes]), changes, strict=True):
        total.index_add_(0, at, change.values)
    return _Numbers(places, total)

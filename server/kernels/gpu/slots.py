"""What an adapter is to the kernels of deltas in every layer, found once: its slots.

An adapter's operands of one kind, one of each layer, make a slot: so what a step does with it is
the same numbers in every layer, and only the parts differ. A low-rank delta makes two slots, its
first factor's before its second's. Knows neither tokens nor steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from server.kernels.gpu.operands import GpuOperand, Kind, Part
from server.kernels.gpu.slices import Numbers
from server.kernels.gpu.table import PART_NUMBERS, ROWS
from server.kernels.interface import Operand
from server.kernels.recorded import BeyondCapacity, LayerOperands
from server.kernels.reference_operands import ReferenceOperand

Group = tuple[tuple[Kind, ...], int]  # kinds of an operand's parts; how many such came before it


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Parts of one kind, one of each layer."""

    kind: Kind | None  # None: no kernel's
    parts: Numbers  # [layers, PART_NUMBERS], zeros where there is none
    is_inner: bool = False  # makes what the slot behind it multiplies
    other: ReferenceOperand | None = None  # that multiplies where no kernel does

    @property
    def num_rows(self) -> int:
        """The most of any layer."""
        return int(self.parts[:, ROWS].max())


def slots_of(operands: LayerOperands, layers: Sequence[str]) -> tuple[Slot, ...]:
    """The slots of an adapter with these `operands`, all of them of `layers`.

    Raises BeyondCapacity for an operand of another layer, or one that no kernel multiplies.
    """
    if strange := operands.keys() - set(layers):
        raise BeyondCapacity("layers", min(strange), f"only {len(layers)} others")
    groups: dict[Group, dict[int, tuple[Part, ...]]] = {}
    for at, layer in enumerate(layers):
        for group, parts in _grouped(operands.get(layer, ())):
            groups.setdefault(group, {})[at] = parts
    return tuple(
        Slot(kind, _stacked(found, number, len(layers)), is_inner=number < len(kinds) - 1)
        for (kinds, _), found in groups.items()
        for number, kind in enumerate(kinds)
    )


def layer_slots(operands: Sequence[Operand], num_rows: int) -> tuple[Slot, ...]:
    """The slots of an adapter in one layer of `num_rows` rows, whatever its operands."""
    return tuple(slot for operand in operands for slot in _operand_slots(operand, num_rows))


def _operand_slots(operand: Operand, num_rows: int) -> Iterator[Slot]:
    if isinstance(operand, GpuOperand):
        last = len(operand.parts) - 1
        for number, part in enumerate(operand.parts):
            yield Slot(part.kind, part.row[None], is_inner=number < last)
    else:
        parts = np.zeros((1, PART_NUMBERS.value), np.int64)
        parts[0, ROWS] = num_rows
        yield Slot(None, parts, other=cast("ReferenceOperand", operand))


def _grouped(operands: Sequence[Operand]) -> Iterator[tuple[Group, tuple[Part, ...]]]:
    seen: list[tuple[Kind, ...]] = []
    for operand in operands:
        if not isinstance(operand, GpuOperand):
            raise BeyondCapacity("operands without a kernel", 1, 0)
        kinds = tuple(part.kind for part in operand.parts)
        yield (kinds, seen.count(kinds)), operand.parts
        seen.append(kinds)


def _stacked(found: Mapping[int, tuple[Part, ...]], number: int, num_layers: int) -> Numbers:
    parts = np.zeros((num_layers, PART_NUMBERS.value), np.int64)
    parts[list(found)] = [own[number].row for own in found.values()]
    return parts


class SlotFiling:
    """The slots of resident adapters, kept as long as their operands are."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)
        self._found: WeakKeyDictionary[GpuOperand, tuple[int, tuple[Slot, ...]]] = (
            WeakKeyDictionary()
        )

    def slots_of(self, operands: LayerOperands) -> tuple[Slot, ...]:
        """As the function; found once for each mapping, known by itself and its first operand."""
        first = next((own for of_layer in operands.values() for own in of_layer), None)
        if not isinstance(first, GpuOperand):
            return slots_of(operands, self._layers)
        found = self._found.get(first)
        if found is None or found[0] != id(operands):
            found = self._found[first] = id(operands), slots_of(operands, self._layers)
        return found[1]

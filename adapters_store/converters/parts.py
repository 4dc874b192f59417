"""What every foreign format comes to: entries and biases of modules, put together as an adapter.

Owns names (which layer of the base a module is) and the checks that all formats share: places in
range, none twice. Knows no format.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import BiasDelta, SparseAdapter, WeightDelta
from adapters_store.converters.patterns import fitting_delta
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import PREFIX, Layout, Place, check_places


@dataclass(frozen=True, slots=True)
class Target:
    """The base that an adapter is made for."""

    layout: Layout
    weight: Callable[[str], Tensor]  # layer -> its weight in the base, fp32 [out, in]

    def place(self, name: str) -> Place:
        """The place of a module by any of the names that tools give it; AdapterRefused if none."""
        for known in _spellings(name):
            if (place := self.layout.place(known)) is not None:
                return place
        raise AdapterRefused([f"{name}: is no linear layer of the base"])

    def split(self, name: str) -> tuple[str, str]:
        """A tensor's name as (module, rest), where the module is a linear layer of the base."""
        module, dot, rest = name.rpartition(".")
        while dot:
            if any(self.layout.place(known) for known in _spellings(module)):
                return module, rest
            module, dot, last = module.rpartition(".")
            rest = f"{last}.{rest}"
        raise AdapterRefused([f"{name}: belongs to no linear layer of the base"])

    def grouped(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Tensors by module and the rest of their names."""
        modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            module, rest = self.split(name)
            modules[module][rest] = tensor
        return modules

    def base_rows(self, place: Place) -> Tensor:
        return self.weight(place.layer)[place.first_row : place.last_row]


def _spellings(name: str) -> Iterator[str]:
    yield name
    yield name.removeprefix(PREFIX)
    yield name.removeprefix("model.")  # Lightning modules hold the model as `model`


@dataclass(frozen=True, slots=True)
class Entries:
    """Changed entries of the rows at `place`."""

    place: Place
    flat: Tensor  # [nnz] integers, row-major in [rows of the place, in], any order
    values: Tensor  # [nnz]

    @classmethod
    def of_mask(cls, place: Place, weight: Tensor, mask: Tensor) -> "Entries":
        """The entries of `weight` where `mask` is 1; AdapterRefused for a mask of other values."""
        for what, tensor in (("weight", weight), ("mask", mask)):
            check_shape(place, what, tensor, (place.num_rows, place.shape[1]))
        if not torch.equal(mask != 0, mask == 1):
            raise AdapterRefused([f"{place.layer}: mask: holds values other than 0 and 1"])
        flat = mask.flatten().nonzero().flatten()
        return cls(place, flat, weight.flatten()[flat])


@dataclass(frozen=True, slots=True)
class BiasEntries:
    """The bias of the rows at `place`."""

    place: Place
    values: Tensor  # [rows of the place]


Part = Entries | BiasEntries


@dataclass(frozen=True, slots=True)
class Conversion:
    """An adapter, and for each layer that the source names what became of it."""

    adapter: SparseAdapter
    remarks: Mapping[str, str]


def check_shape(place: Place, what: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        found = list(tensor.shape)
        raise AdapterRefused([f"{place.layer}: {what}: shape {found}, expected {list(expected)}"])


def assemble(parts: Iterable[Part], target: Target, notes: Mapping[str, str]) -> Conversion:
    """One adapter of all parts, in the layout of the base. AdapterRefused where they do not fit."""
    weights: dict[str, list[Entries]] = defaultdict(list)
    biases: dict[str, list[BiasEntries]] = defaultdict(list)
    for part in parts:
        if isinstance(part, Entries):
            weights[part.place.layer].append(part)
        else:
            biases[part.place.layer].append(part)
    for kind in (weights, biases):
        check_places(part.place for same in kind.values() for part in same)
    made = [_weight(layer, same) for layer, same in weights.items()]
    made += [_bias(layer, same) for layer, same in biases.items()]
    deltas = sorted((d for d, _, _ in made if d), key=lambda delta: (delta.layer, delta.kind))
    base = target.layout.base
    digests = {delta.layer: base.layers[delta.layer].digest for delta in deltas}
    adapter = SparseAdapter(base.name, digests, tuple(deltas), notes)
    return Conversion(adapter, {name: remark for _, name, remark in made})


def _weight(layer: str, parts: list[Entries]) -> tuple[WeightDelta | None, str, str]:
    shape = parts[0].place.shape
    flat = torch.cat([_checked(part) + part.place.first_row * shape[1] for part in parts])
    values = torch.cat([part.values for part in parts])
    if not len(flat):
        return None, layer, "nothing: the source has no entries for it"
    flat, order = flat.sort()
    repeated = flat[1:][flat[1:] == flat[:-1]]
    if len(repeated):
        row, column = divmod(int(repeated[0]), shape[1])
        raise AdapterRefused([f"{layer}: (row {row}, column {column}) is there twice"])
    delta, why = fitting_delta(layer, shape, flat, values[order])
    return delta, layer, why


def _checked(part: Entries) -> Tensor:
    """The flat indices as int64, in range and as many as the values."""
    flat, place = part.flat.long(), part.place
    check_shape(place, "values", part.values, (len(flat),))
    outside = flat[(flat < 0) | (flat >= place.num_rows * place.shape[1])]
    if len(outside):
        end = place.num_rows * place.shape[1]
        raise AdapterRefused([f"{place.layer}: index {int(outside[0])} is outside [0, {end})"])
    return flat


def _bias(layer: str, parts: list[BiasEntries]) -> tuple[WeightDelta | None, str, str]:
    """Zero in the rows that have none. A bias of zeros changes nothing and is left out."""
    name = f"{layer} (bias)"
    for part in parts:
        check_shape(part.place, "bias", part.values, (part.place.num_rows,))
    if not any(part.values.any() for part in parts):
        return None, name, "nothing: all zeros"
    shape = parts[0].place.shape
    bias = torch.zeros(shape[0], dtype=parts[0].values.dtype)
    for part in parts:
        bias[part.place.first_row : part.place.last_row] = part.values
    return BiasDelta(layer=layer, shape=shape, bias=bias), name, "an added bias"

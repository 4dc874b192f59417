"""The space that is searched: methods of the merge table, weights, and each method's parameters.

Every point of it is a mix that the table accepts. Pure: knows neither server nor scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from adapters_store.merging.table import METHODS
from merge_search.dimensions import Axis, Dimension, Range, Value, Values
from merge_search.errors import SearchRefused
from merge_search.mix import Mix
from merge_search.parameters import Asked, check_asked, parameters_of
from merge_search.weights import Weights

# Of the room that density leaves epsilon, what is used: rounding must not lead out of it.
ROOM = 0.99


@dataclass(frozen=True, slots=True)
class Coordinates:
    """A point: a method, and a place on each of its axes, in their order."""

    method: str
    places: tuple[float, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["method"], tuple(value["places"]))


@dataclass(frozen=True)
class MethodSpace:
    """One method's part of the space: first the weights' axes, then those of parameters."""

    method: str
    candidates: tuple[str, ...]
    weights: Weights
    parameters: Mapping[str, Dimension]
    seed: int  # of what methods draw, the same for all mixes: they differ by what is searched

    @property
    def axes(self) -> list[Axis]:
        own = [_axis(name, each) for name, each in self.parameters.items() if not _is_fixed(each)]
        return [*self.weights.axes(self.candidates), *own]

    def mix(self, places: Sequence[float]) -> Mix:
        """The mix at these places of `axes`; parameters that are the table's defaults go unsaid."""
        count = len(self.weights.axes(self.candidates))
        weights = self.weights.at(places[:count], len(self.candidates))
        values, defaults = self._values(places[count:]), self._defaults
        told = {name: value for name, value in values.items() if value != defaults[name]}
        merge: dict[str, Any] = {"method": self.method, **told}
        if METHODS[self.method].takes_seed:
            merge["seed"] = self.seed
        return Mix(tuple(zip(self.candidates, weights, strict=True)), merge)

    def start(self) -> Coordinates:
        """Uniform weights and the table's defaults, or what is nearest to them."""
        own = [
            _place(each, self._defaults[name])
            for name, each in self.parameters.items()
            if not _is_fixed(each)
        ]
        return Coordinates(
            self.method, (*self.weights.uniform_coordinates(len(self.candidates)), *own)
        )

    def grid(self, steps: int) -> Iterator[Coordinates]:
        """All values, `steps` numbers of each range, and weights likewise; every combination."""
        own = [_places(each, steps) for each in self.parameters.values() if not _is_fixed(each)]
        for chosen in self.weights.grid(len(self.candidates), steps):
            for rest in product(*own):
                yield Coordinates(self.method, (*chosen, *rest))

    @property
    def _defaults(self) -> dict[str, Value | None]:
        return {each.name: each.default for each in METHODS[self.method].parameters}

    def _values(self, places: Sequence[float]) -> dict[str, Value]:
        rest, values = iter(places), dict[str, Value]()
        for name, dimension in self.parameters.items():
            if isinstance(dimension, Range):
                within = _cut(dimension, values) if name == "epsilon" else dimension
                values[name] = within.at(next(rest)) if within else dimension.low
            else:
                index = 0 if _is_fixed(dimension) else int(next(rest))
                values[name] = dimension.values[index]
        return values


@dataclass(frozen=True)
class Space:
    """Made by `build`, which checks it."""

    methods: Mapping[str, MethodSpace]

    @classmethod
    def build(
        cls,
        candidates: Sequence[str],
        methods: Sequence[str],
        weights: Weights,
        parameters: Mapping[str, Asked],
        seed: int = 0,
    ) -> Self:
        """Raises SearchRefused. A parameter is of every method that has one of that name."""
        for field, names in (("candidates", candidates), ("methods", methods)):
            if not names or len(set(names)) < len(names):
                raise SearchRefused(field, "must be at least one, each named once")
        weights.check(len(candidates))
        check_asked(methods, parameters)
        are_scaled = weights.total is None and not weights.is_fixed
        spaces = {
            name: MethodSpace(
                name,
                tuple(candidates),
                weights,
                parameters_of(name, parameters, len(candidates), are_scaled=are_scaled),
                seed,
            )
            for name in methods
        }
        return cls(spaces)

    def mix(self, at: Coordinates) -> Mix:
        return self.methods[at.method].mix(at.places)

    def starts(self) -> list[Coordinates]:
        """Where each method starts."""
        return [each.start() for each in self.methods.values()]

    def grid(self, steps: int) -> Iterator[Coordinates]:
        for each in self.methods.values():
            yield from each.grid(steps)


def _axis(name: str, dimension: Dimension) -> Axis:
    return Axis(name, len(dimension.values) if isinstance(dimension, Values) else None)


def _is_fixed(dimension: Dimension) -> bool:
    return isinstance(dimension, Values) and len(dimension.values) == 1


def _place(dimension: Dimension, value: Value | None) -> float:
    if isinstance(dimension, Values):
        return dimension.index_of(value)
    assert isinstance(value, float | int)
    return dimension.share_of(value)


def _places(dimension: Dimension, steps: int) -> list[float]:
    if isinstance(dimension, Values):
        return list(range(len(dimension.values)))
    return [index / (steps - 1) for index in range(steps)]


def _cut(epsilon: Range, values: Mapping[str, Value]) -> Range | None:
    """`epsilon` as far as the density leaves it room; None where that is its low end alone."""
    density = values["density"]
    assert isinstance(density, float)
    high = min(epsilon.high, ROOM * min(density, 1 - density))
    return Range(epsilon.low, high, epsilon.log) if high > epsilon.low else None

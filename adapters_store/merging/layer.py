"""One layer of a merge: the members' deltas in, the merged delta out.

The values of the result are fp32 and its scale is 1. Peak memory is the members' deltas of the
layer, the result, and a few panels. The interpreter's lock is released for nearly all of the time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from adapters_store.adapter import BiasDelta, DenseDelta, WeightDelta
from adapters_store.errors import InvalidMerge
from adapters_store.merging.bands import adapter_band
from adapters_store.merging.forms import Form, most_held, smallest_form, write
from adapters_store.merging.panels import Members, Plan, run_plan
from adapters_store.merging.parameters import Value
from adapters_store.merging.rules import PLANS, RANKED_IN_ROWS, Job
from adapters_store.merging.sources import source
from adapters_store.merging.space import Space, common_grid, row_major
from adapters_store.merging.trims import Band

MemberStatistics = Band
NO_STATISTICS: Mapping[str, MemberStatistics] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One member in one layer: its adapter's digest, its weight (an fp32 number), its delta there.

    `delta` is None where the member leaves the layer alone: its mask is empty there.
    """

    digest: str
    weight: float
    delta: WeightDelta | None


def needs_statistics(parameters: Mapping[str, Value]) -> bool:
    """Whether `merge_layer` must be told `statistics` of every member."""
    return parameters.get("scope") == "adapter"


def statistics(
    parameters: Mapping[str, Value], read: Callable[[], Iterable[WeightDelta]]
) -> MemberStatistics:
    """What merging needs to know of a whole adapter, where `needs_statistics`.

    `read` gives all the adapter's deltas, in the order of their layers' names; it is called
    several times.
    """
    return adapter_band(read, parameters)


def merge_layer(
    method: str,
    parameters: Mapping[str, Value],
    inputs: Sequence[LayerInput],
    *,
    layer: str,
    shape: tuple[int, int],
    seed: int = 0,
    statistics: Mapping[str, MemberStatistics] = NO_STATISTICS,
    form: Literal["auto"] | Form = "auto",
) -> WeightDelta | None:
    """The merged weight delta of `layer`; None where no member keeps a place.

    `parameters` are as `resolve_parameters` gives them; members are added in the order given.
    `statistics` are by the members' digests. `form` "auto" is the smallest in bytes; "block" needs
    members that are tiles of one grid. Raises InvalidMerge.
    """
    if all(given.delta is None for given in inputs):
        return None
    work = _Work(method, parameters, inputs, layer, shape, seed, statistics)
    grid = work.grid
    if form == "block" and grid is None:
        raise InvalidMerge("form", form, "the members are not tiles of one grid")
    space = grid if grid and form in ("auto", "block") else row_major(shape)
    plan, members = work.plan(space)
    if form == "auto":
        form = smallest_form(plan, members, work.deltas)
        if space is grid and form != "block":
            plan, members = work.plan(row_major(shape))
    most = most_held(form, work.deltas, members.space)
    return write(form, run_plan(plan, members), layer, members.space, most)


def merge_bias(
    method: str,
    parameters: Mapping[str, Value],
    inputs: Sequence[LayerInput],
    *,
    layer: str,
    shape: tuple[int, int],
    seed: int = 0,
) -> BiasDelta | None:
    """The merged bias of `layer`, whose weight has `shape`: the method, on one row of `out` places.

    A bias has no mask, so `overlap_average` divides by the number of members, as `average` does;
    magnitudes are ranked within the bias.
    """
    rule = "average" if method == "overlap_average" else method
    told = {**parameters, "scope": "layer"} if needs_statistics(parameters) else parameters
    rows = [_as_row(given) for given in inputs]
    row = (1, shape[0])
    merged = merge_layer(
        rule, told, rows, layer=_bias_name(layer), shape=row, seed=seed, form="dense"
    )
    if merged is None:
        return None
    return BiasDelta(layer=layer, shape=shape, bias=merged.dense()[0])


def _bias_name(layer: str) -> str:
    return f"{layer}.bias"


def _as_row(given: LayerInput) -> LayerInput:
    """A bias as the one row of a weight."""
    if given.delta is None:
        return given
    assert isinstance(given.delta, BiasDelta)
    bias, layer = given.delta.bias, _bias_name(given.delta.layer)
    row = DenseDelta(layer=layer, shape=(1, len(bias)), scale=given.delta.scale, delta=bias[None])
    return LayerInput(given.digest, given.weight, row)


@dataclass(frozen=True, slots=True)
class _Work:
    """What `merge_layer` was given."""

    method: str
    parameters: Mapping[str, Value]
    inputs: Sequence[LayerInput]
    layer: str
    shape: tuple[int, int]
    seed: int
    statistics: Mapping[str, MemberStatistics]

    @property
    def deltas(self) -> list[WeightDelta]:
        """Of the members that change the layer."""
        deltas = [given.delta for given in self.inputs if given.delta is not None]
        assert all((delta.layer, delta.shape) == (self.layer, self.shape) for delta in deltas)
        return deltas

    @property
    def grid(self) -> Space | None:
        """The members' common grid, if the method can be computed tile by tile."""
        return None if self.method in RANKED_IN_ROWS else common_grid(self.deltas)

    def plan(self, space: Space) -> tuple[Plan, Members]:
        """The method's plan for the members in the order of `space`."""
        present = [i for i, given in enumerate(self.inputs) if given.delta is not None]
        members = Members(
            space,
            [source(delta, space) for delta in self.deltas],
            [self.inputs[i].weight for i in present],
            [self.inputs[i].digest for i in present],
            present,
            len(self.inputs),
        )
        job = Job(members, self.deltas, self.parameters, self.layer, self.seed, self.statistics)
        return PLANS[self.method](job), members

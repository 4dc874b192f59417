"""One layer of a merge: the members' deltas in, the merged delta out.

The values of the result are fp32 and its scale 1. Peak memory is the members' deltas of the layer,
the result, and a few panels. Runs without the interpreter lock for nearly all of its time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from adapters_store.adapter import BiasDelta, DenseDelta, WeightDelta
from adapters_store.merging.forms import write
from adapters_store.merging.panels import Members, run_plan
from adapters_store.merging.parameters import Value
from adapters_store.merging.rules import PLANS
from adapters_store.merging.sources import source
from adapters_store.merging.space import row_major


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One member in one layer: its adapter's digest, its weight (an fp32 number), its delta there.

    `delta` is None where the member leaves the layer alone: its mask is empty there.
    """

    digest: str
    weight: float
    delta: WeightDelta | None


def merge_layer(
    method: str,
    parameters: Mapping[str, Value],
    inputs: Sequence[LayerInput],
    *,
    layer: str,
    shape: tuple[int, int],
    seed: int = 0,
    form: Literal["auto", "element", "block", "dense"] = "auto",
) -> WeightDelta | None:
    """The merged weight delta of `layer`; None where no member holds a place.

    `parameters` are as `resolve_parameters` gives them. Members are added in the order given.
    """
    present = [(given.delta, given.weight) for given in inputs if given.delta is not None]
    if not present:
        return None
    space = row_major(shape)
    sources = [source(delta, space) for delta, _ in present]
    members = Members(space, sources, [weight for _, weight in present], len(inputs))
    plan = PLANS[method](members, parameters)
    most = min(sum(delta.nnz for delta, _ in present), shape[0] * shape[1])
    chosen = (
        form
        if form != "auto" and form != "block"
        else "dense"
        if 2 * most > shape[0] * shape[1]
        else "element"
    )
    return write(chosen, run_plan(plan, members), layer, space, most)


def merge_bias(
    method: str,
    parameters: Mapping[str, Value],
    inputs: Sequence[LayerInput],
    *,
    layer: str,
    shape: tuple[int, int],
    seed: int = 0,
) -> BiasDelta | None:
    """The merged bias of `layer`, of weight shape `shape`: the method applied to the rows' biases.

    A bias has no mask, so `overlap_average` divides by the number of members, as `average` does.
    """
    rule = "average" if method == "overlap_average" else method
    rows = [_as_row(given) for given in inputs]
    merged = merge_layer(
        rule, parameters, rows, layer=f"{layer}.bias", shape=(1, shape[0]), seed=seed, form="dense"
    )
    if merged is None:
        return None
    return BiasDelta(layer=layer, shape=shape, bias=merged.tensors["delta"][0])


def _as_row(given: LayerInput) -> LayerInput:
    """A bias as the one row of a weight."""
    bias = given.delta
    if not isinstance(bias, BiasDelta):
        return given
    row = DenseDelta(
        layer=bias.layer, shape=(1, len(bias.bias)), scale=bias.scale, delta=bias.bias[None]
    )
    return LayerInput(given.digest, given.weight, row)
